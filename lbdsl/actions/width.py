"""`width`: a narrower MLP that keeps the most important channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lbdsl.actions.base import Action, CountOrShare, unchangeable
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, Concat, Largest, MatMul, Ref, Slice, Stat, Sum, Take
from lbdsl.parts import TensorRow

STEP = 32
"""Widths are multiples of this, as integer kernels and GGUF blocks require."""


class Width(Action):
    """Narrow a layer's MLP to its most important channels: a number of them, or a share of those that it has.

    What: the importance of channel c of down(act(gate(x)) * up(x)) is the mean of |act(gate(x)) * up(x)| over the
    calibration text times the norm of its column of down; the most important channels are kept, in their order. The width
    is a multiple of 32: a share is rounded to the nearest one, halves down. The kept columns of down are refitted by least
    squares on the calibration text to compensate for the removed channels; with `refit=false` they are not changed.
    Why: an MLP holds most of a layer's weights, and decoding reads each of them once per token. Narrowing many layers a
    little costs less quality than removing whole MLPs.
    Example: `layers 4-27 width(75%)`, `lowest 8 by kl(width(1152)) width(1152)`, `else width(75%, refit=false)`
    Source: Minitron (arXiv 2407.14679) for channels by their activations; Wanda (arXiv 2306.11695) for activations times
    weights; channel pruning with least squares, He et al. (arXiv 1707.06168), for `refit`.
    """

    kind: Literal["width"] = "width"
    channels: Annotated[CountOrShare, Field(description="a number of channels, or a share of the base's as in `75%`")]
    refit: bool = True
    example: ClassVar[str] = "width(channels=75%)"
    examples: ClassVar[tuple[str, ...]] = ("width(channels=75%, refit=false)",)

    def claims(self) -> tuple[str, ...]:
        return ("ffn.width",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        base = _width(layer)
        # What `check` rejects changes nothing.
        if base is None or layer.ffn is None or not _allowed(wanted := self._channels(base), base):
            return layer
        return layer.replace(ffn=layer.ffn.replace(width=wanted))

    def weights(self, base: LayerSpec, layer: LayerSpec, model: ModelFacts) -> Mapping[str, AnyExpr]:
        before, after = _width(base), _width(layer)
        if before is None or after is None or before == after:
            return {}
        fit = Stat(kind="channel_refit", args=(("keep", after),), dims=(1 + before - after, before)) if self.refit else None
        importance = Take(x=fit, axis=0, indices=0) if fit else Stat(kind="channel_importance", dims=(before,))
        kept = Largest(of=importance, count=after)
        made = {row.name: _narrowed(row, before, kept, fit) for row in model.rows("gated_mlp")}
        return {name: expr for name, expr in made.items() if expr is not None}

    def _channels(self, base: int) -> int:
        """The requested width of a layer with `base` channels."""
        if isinstance(self.channels, int):
            return self.channels
        return STEP * max(1, math.ceil(round(self.channels * base / STEP - 0.5, 6)))

    def check(self, facts: ModelFacts, layer: int) -> tuple[Diagnostic, ...]:
        base = _width(facts.layer_specs[layer])
        if base is None:
            return unchangeable(self, facts, layer)
        if _allowed(wanted := self._channels(base), base):
            return ()
        below, most = wanted // STEP * STEP, (base - 1) // STEP * STEP
        nearest = sorted({min(max(near, STEP), most) for near in (below, below + STEP)})
        help = f"nearest allowed: {' or '.join(map(str, nearest))}" if most else "`drop(mlp)` removes it whole"
        if isinstance(self.channels, int) and self.channels < 100 and most:
            help += f"; a share is `width({self.channels}%)`"
        return (
            error(
                "LB319",
                f"`{self.text()}` asks for {wanted} channels: the width must be a multiple of {STEP} below the base's "
                f"{base}",
                help=help,
            ),
        )


def _width(layer: LayerSpec) -> int | None:
    """The channels of its MLP; None without one, or where that has no width to change."""
    ffn: Any = layer.ffn
    return ffn.width if ffn is not None and "width" in ffn.changeable else None


def _allowed(channels: int, base: int) -> bool:
    return 0 < channels < base and channels % STEP == 0


def _narrowed(row: TensorRow, width: int, kept: Largest, fit: Stat | None) -> AnyExpr | None:
    """An MLP parameter's expression with only the kept of its `width` channels; None if it has no channel axis."""
    old = Ref(name=row.name)
    if "gate_up" in row.dims:
        axis = row.dims.index("gate_up")
        halves = (Slice(x=old, axis=axis, start=start, stop=start + width) for start in (0, width))
        return Concat(xs=tuple(Take(x=half, axis=axis, indices=kept) for half in halves), axis=axis)
    if "intermediate" not in row.dims:
        return None
    axis = row.dims.index("intermediate")
    taken = Take(x=old, axis=axis, indices=kept)
    if fit is None or axis == 0:
        return taken
    removed = Take(x=old, axis=axis, indices=kept.replace(others=True))
    rows = Slice(x=fit, axis=0, start=1, stop=fit.dims[0])
    return Sum(xs=(taken, MatMul(a=removed, b=Take(x=rows, axis=1, indices=kept))))
