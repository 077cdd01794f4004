"""Patches: a linear map, merged into the last sub-block that is kept before dropped ones, that makes up for them.

A layer is two sub-blocks, attention and MLP. A patch stands for a run of dropped sub-blocks, with nothing kept between
them; it maps the output of the sub-block before the run. Source: ReplaceMe (arXiv 2505.02819).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lbdsl.core.digest import digest_of
from lbdsl.core.units import ranges_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.difference import SUB_BLOCKS
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, LayerChange, MatMul, Ref, Stat, after, stats_in
from lbdsl.parts import Slot
from lbdsl.parts.base import WORDS

KIND = "patch"
"""The statistic that a patch is: [D, D] (see `lbdsl.statistics.patch`)."""


JOINT, FULL = "joint", "1"
"""The factor of a plan's patches, and that which they are fitted with."""


class SubBlock(NamedTuple):
    """A sub-block of a model."""

    layer: int
    slot: Slot

    def __str__(self) -> str:
        return f"{self.layer}.{self.slot}"

    @classmethod
    def of(cls, text: str) -> SubBlock:
        layer, _, slot = text.partition(".")
        return cls(int(layer), Slot(slot))

    @property
    def order(self) -> tuple[int, int]:
        return self.layer, SUB_BLOCKS.index(self.slot)

    @property
    def words(self) -> str:
        """`the MLP of layer 3`."""
        return f"the {WORDS[self.slot]} of layer {self.layer}"


class Patch(NamedTuple):
    """A patch of the output of the sub-block `at`, for the sub-blocks `dropped`."""

    at: SubBlock
    dropped: tuple[SubBlock, ...]
    stat: Stat


def output_module(facts: ModelFacts, spec: LayerSpec, slot: Slot) -> str | None:
    """The linear module that gives a sub-block's output, by name relative to the layer."""
    part = spec.part(slot)
    return part.output_module(facts) if part is not None else None


def places(facts: ModelFacts) -> Iterator[SubBlock]:
    """The sub-blocks of a model, in order."""
    return (SubBlock(layer, slot) for layer in range(facts.layers) for slot in SUB_BLOCKS)


def spec_of(facts: ModelFacts, changes: Mapping[int, LayerChange], layer: int) -> LayerSpec:
    return changes[layer].spec if layer in changes else facts.layer_specs[layer]


def with_patches(
    facts: ModelFacts,
    changes: Mapping[int, LayerChange],
    wanted: Mapping[SubBlock, int],
    kept: Mapping[SubBlock, int] = MappingProxyType({}),
    factor: str = JOINT,
) -> tuple[dict[int, LayerChange], dict[SubBlock, str]]:
    """`changes`, by layer, with the patches for those of `wanted` that are dropped; and why the others have none. `kept`
    are sub-blocks whose weights are to stay. Both have the number of the rule that says so; the first rule wins. A pure
    function."""
    found, without = dict(changes), dict[SubBlock, str]()
    for at, run in _runs(facts, changes):
        asking = [place for place in run if place in wanted]
        if not asking:
            continue
        first = min(wanted[place] for place in asking)
        obstacle = "nothing is kept before it" if at is None else _obstacle(facts, changes, at, kept.get(at, first) < first)
        if at is None or obstacle is not None:
            without |= dict.fromkeys(asking, obstacle or "")
        else:
            found[at.layer] = _with_patch(facts, found, at, run[: run.index(asking[-1]) + 1], factor)
    return found, without


def patches_in(weights: Mapping[str, AnyExpr]) -> Iterator[Stat]:
    """The patches that the new weights of a layer are made with."""
    return (stat for stat in stats_in(weights.values()) if stat.kind == KIND)


def patches_of(facts: ModelFacts, changes: Mapping[int, LayerChange]) -> tuple[Patch, ...]:
    """The patches of a changed model, in order."""
    found = []
    for layer, change in changes.items():
        for stat in patches_in(dict(change.weights)):
            named = dict(stat.args)
            slot = next(slot for slot in SUB_BLOCKS if output_module(facts, change.spec, slot) == named["module"])
            dropped = tuple(SubBlock.of(text) for text in str(named["dropped"]).split())
            found.append(Patch(SubBlock(layer, slot), dropped, stat))
    return tuple(sorted(found, key=lambda patch: patch.at.order))


def with_factor(changes: Mapping[int, LayerChange], factor: str) -> dict[int, LayerChange]:
    """The changes with their patches multiplied by another factor."""
    return {i: change._replace(weights=tuple(_refactored(change, factor))) for i, change in changes.items()}


def refactored(stat: Stat, factor: str) -> Stat:
    return stat.replace(args=tuple((name, factor if name == "factor" else value) for name, value in stat.args))


def without_patches(change: LayerChange) -> LayerChange:
    """The change of a layer as it is before its patches."""
    found = {name: patched[1] if (patched := _parted(expr)) else expr for name, expr in change.weights}
    return change._replace(weights=tuple((name, expr) for name, expr in found.items() if expr != Ref(name=name)))


def patch_texts(weights: Mapping[str, AnyExpr]) -> list[str]:
    """What the patches in a layer's new weights are for: `patch for layer 5`."""
    found = []
    for stat in patches_in(weights):
        layers = sorted({SubBlock.of(text).layer for text in str(dict(stat.args)["dropped"]).split()})
        found.append(f"patch for layer{'s' if len(layers) > 1 else ''} {ranges_text(layers)}")
    return found


def _refactored(change: LayerChange, factor: str) -> Iterator[tuple[str, AnyExpr]]:
    for name, expr in change.weights:
        patched = _parted(expr)
        yield name, MatMul(a=refactored(patched[0], factor), b=patched[1]) if patched else expr


def _parted(expr: AnyExpr) -> tuple[Stat, AnyExpr] | None:
    """The patch of a patched weight, and the weight before; None for other new weights."""
    if isinstance(expr, MatMul) and isinstance(expr.a, Stat) and expr.a.kind == KIND:
        return expr.a, expr.b
    return None


def _runs(facts: ModelFacts, changes: Mapping[int, LayerChange]) -> Iterator[tuple[SubBlock | None, list[SubBlock]]]:
    """Runs of dropped sub-blocks, each with the kept one before it."""
    at: SubBlock | None = None
    run: list[SubBlock] = []
    for place in places(facts):
        if spec_of(facts, changes, place.layer).part(place.slot) is not None:
            if run:
                yield at, run
            at, run = place, []
        elif facts.layer_specs[place.layer].part(place.slot) is not None:
            run.append(place)
    if run:
        yield at, run


def _obstacle(facts: ModelFacts, changes: Mapping[int, LayerChange], at: SubBlock, kept: bool) -> str | None:
    """Why the output of a sub-block cannot be mapped; None if it can."""
    if kept:
        return f"an earlier rule keeps {at.words} as it is"
    if facts.norms(at.slot)[1] is not None:
        return f"a norm follows the {WORDS[at.slot]} in {facts.family} models"
    spec = spec_of(facts, changes, at.layer)
    module = output_module(facts, spec, at.slot)
    if module is None or module not in spec.linear_maps(facts):
        return f"{at.words} has no {module or 'linear map that gives its output'}"
    return None


def _with_patch(
    facts: ModelFacts, changes: Mapping[int, LayerChange], at: SubBlock, dropped: Iterable[SubBlock], factor: str
) -> LayerChange:
    """The change of layer `at` with the patch. The statistic's name has a digest of all changes that the hidden states
    depend on: those of the same layers or earlier."""
    dropped = tuple(dropped)
    before = with_factor({i: change for i, change in changes.items() if i <= dropped[-1].layer}, FULL)
    stream = digest_of([[i, change.to_json()] for i, change in sorted(before.items())])
    spec = spec_of(facts, changes, at.layer)
    module = output_module(facts, spec, at.slot)
    assert module is not None, "an obstacle otherwise"
    named = {"dropped": " ".join(map(str, dropped)), "factor": factor, "module": module, "stream": stream[:16]}
    stat = Stat(kind=KIND, args=tuple(named.items()), dims=(facts.hidden, facts.hidden))
    made = dict(changes[at.layer].weights) if at.layer in changes else {}
    names = [tensor.name for tensor in spec.tensors(facts) if tensor.module == module]
    return LayerChange(spec, tuple(sorted(after(made, {n: MatMul(a=stat, b=Ref(name=n)) for n in names}).items())))
