"""Fit the patches of changed models (see `lbdsl.actions.patches`), from the first layer on, and cache them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbdsl.actions.patches import (
    FULL,
    Patch,
    SubBlock,
    output_module,
    patches_of,
    places,
    with_factor,
    without_patches,
)
from lbdsl.core.progress import Report, unreported
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.flow import Changes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.statistics import check_streams, checked, keep_value, kept_values
from lbdsl.measure.taken import StatisticsOf
from lbdsl.measure.variant import variant_of
from lbdsl.parts import Slot
from lbdsl.statistics import Observed, statistic_of
from lbdsl.statistics.patch import Patch as Statistic
from lbdsl.statistics.patch import Use

STREAMS = 6
"""The hidden states held at once: the base's, a changed model's with and without the dropped sub-blocks, the output of the
patched sub-block, that of the dropped ones, and those of one step."""


@torch.inference_mode()
def fit_patches(
    model: Callable[[], LayerSource],
    facts: ModelFacts,
    models: Sequence[Changes],
    blocks: TokenBlocks,
    check: TokenBlocks,
    statistics: StatisticsOf,
    folder: Path,
    fingerprint: str,
    *,
    progress: Report = unreported,
    batch: int = 1,
) -> None:
    """Fit the patches of every changed model that are not in `folder` yet on the text `blocks`, check them on `check`, and
    save them there under `fingerprint`, each as soon as it is fitted.

    `model` returns the base, and is called only if one is missing; `statistics` has the other statistics of the models' new
    weights. Raises LbdslError LB306 for values that are NaN or infinite, LB346 for texts whose hidden states do not fit in
    memory.
    """

    def is_fitted(patch: Patch) -> bool:
        return kept_patch(folder, fingerprint, patch) is not None

    full = (with_factor(changes, FULL) for changes in models)
    models = [changes for changes in full if not all(map(is_fitted, patches_of(facts, changes)))]
    if not models:
        return
    source = model()
    check_streams(source, (blocks, check), STREAMS)
    uses: dict[Use, TokenBlocks] = {"fit": blocks, "check": check}
    texts = [(use, ids.to(source.device)) for use, text in uses.items() for ids in text.ids.split(batch)]
    run = _Run(source, facts, texts, statistics, folder, fingerprint)
    waiting = sorted((_Patching(run, changes) for changes in models), key=lambda patching: patching.start.order)
    last = max(patching.stop.layer for patching in waiting)
    base = [source.embed(ids) for _, ids in texts]
    running: list[_Patching] = []
    for index in range(last + 1):
        with source.layer(index):
            for place in (place for place in places(facts) if place.layer == index):
                while waiting and waiting[0].start == place:
                    running.append(waiting.pop(0))
                    running[-1].states = list(base)
                for patching in running:
                    patching.step(place)
                running = [patching for patching in running if patching.stop != place]
                base = [after for after, _ in run.half(place, run.own(place), base)] if waiting else []
        progress(index + 1, last + 1, f"layer {index}")


class _Run:
    """What all changed models of a fit share."""

    def __init__(
        self,
        source: LayerSource,
        facts: ModelFacts,
        texts: Sequence[tuple[Use, Tensor]],
        statistics: StatisticsOf,
        folder: Path,
        fingerprint: str,
    ):
        self.source, self.facts, self.statistics = source, facts, statistics
        self.names = [name for name, _ in texts]
        self.tokens = sum(ids.numel() for name, ids in texts if name == "fit")
        self.folder, self.fingerprint = folder, fingerprint
        # Without padding, positions and masks depend on the shape alone, and can be large.
        first = {ids.shape: ids for _, ids in texts}
        prepared = {shape: source.hybrid.model.prepare(source.embed(ids)) for shape, ids in first.items()}
        self._inputs = [prepared[ids.shape] for _, ids in texts]
        field = facts.family_data.multipliers.residual
        self.multiplier = 1.0 if field is None else float(getattr(source.hybrid.config, field))

    def own(self, place: SubBlock) -> LayerChange:
        """The base's own layer."""
        return LayerChange(self.facts.layer_specs[place.layer])

    def half(
        self, place: SubBlock, change: LayerChange, states: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Run one sub-block of a changed layer on each of the hidden states: those after it, and its output (None where the
        layer does not have it)."""
        if change.spec.part(place.slot) is None:
            yield from ((state, None) for state in states)
            return
        other = Slot.FFN if place.slot is Slot.MIXER else Slot.MIXER
        spec = change.spec.replace(weights=(), **{other.value: None})
        names = {tensor.name for tensor in spec.tensors(self.facts)}
        alone = LayerChange(spec, tuple((name, expr) for name, expr in change.weights if name in names))
        layer = variant_of(self.source.hybrid, place.layer, alone, self.statistics(place.layer))
        # Of experts no linear map gives the output; they are run, and never patched.
        module = output_module(self.facts, change.spec, place.slot) or str(layer.ffn_name)
        with _output(layer, module) as seen:
            for state, inputs in zip(states, self._inputs, strict=True):
                after = self.source.hybrid.model.run_layer(layer, place.layer, state, inputs)
                yield after, seen.pop()

    def kept(self, patch: Patch) -> Tensor | None:
        return kept_patch(self.folder, self.fingerprint, patch)

    def fitted(self, patch: Patch, sums: dict[str, Tensor]) -> Tensor:
        """A patch from its sums, saved."""
        weights: Callable[[str], Tensor] = self.source.hybrid.model.layers[patch.at.layer].get_parameter
        seen = Observed(sums, self.tokens, weights, self.facts.layer_specs[patch.at.layer], self.facts)
        value = checked(patch.stat, patch.at.layer, statistic_of(patch.stat).value(seen))
        keep_value(self.folder, self.fingerprint, patch.at.layer, patch.stat, value)
        return value


class _Patching:
    """A changed model on its way through the layers, from its first change to its last patch that is missing."""

    def __init__(self, run: _Run, changes: Changes):
        self._run = run
        self._changes = {index: without_patches(change) for index, change in changes.items()}
        self._patches = {patch.at: patch for patch in patches_of(run.facts, changes)}
        self.start = next(place for place in places(run.facts) if self._begins(place))
        missing = (patch.dropped[-1] for patch in self._patches.values() if run.kept(patch) is None)
        self.stop = max(missing, key=lambda place: place.order)
        self.states: list[Tensor] = []
        self._patch: Patch | None = None
        # While a patch is fitted: m of the sub-block that it maps, the states with the dropped ones, and r, their sum.
        self._mapped: list[Tensor] = []
        self._as_before: list[Tensor] = []
        self._lost: list[Tensor | None] = []

    def _begins(self, place: SubBlock) -> bool:
        change = self._changes.get(place.layer)
        if place in self._patches or change is None:
            return place in self._patches
        return bool(change.weights) or change.spec.part(place.slot) != self._run.own(place).spec.part(place.slot)

    def step(self, place: SubBlock) -> None:
        """Run the sub-block at `place`; fit a patch behind the last sub-block that it stands for."""
        run = self._run
        change = self._changes.get(place.layer, run.own(place))
        if self._patch is not None and place in self._patch.dropped:
            for number, (after, lost) in enumerate(run.half(place, run.own(place), self._as_before)):
                self._as_before[number] = after
                before = self._lost[number]
                self._lost[number] = lost if before is None or lost is None else before + lost
            if place == self._patch.dropped[-1]:
                self._fit(self._patch)
            return
        mapped = []
        for number, (after, output) in enumerate(run.half(place, change, self.states)):
            self.states[number] = after
            if place in self._patches and output is not None:
                mapped.append(output)
        patch = self._patches.get(place)
        if patch is not None:
            self._mapped = mapped
            known = run.kept(patch)
            if known is not None:
                self._apply(known)
            else:
                self._patch, self._as_before, self._lost = patch, list(self.states), [None] * len(mapped)

    def _fit(self, patch: Patch) -> None:
        statistic = statistic_of(patch.stat)
        assert isinstance(statistic, Statistic)
        sums: dict[str, Tensor] = {}
        for name, kept, lost in zip(self._run.names, self._mapped, self._lost, strict=True):
            if lost is not None:
                statistic.add_pair(sums, name, kept, lost)
        self._apply(self._run.fitted(patch, sums))
        self._patch, self._as_before, self._lost = None, [], []

    def _apply(self, value: Tensor) -> None:
        """Add what the patch changes to the hidden states."""
        added = (value - torch.eye(len(value))) * self._run.multiplier
        for number, output in enumerate(self._mapped):
            self.states[number] = self.states[number] + output @ added.to(output).T
        self._mapped = []


def kept_patch(folder: Path, fingerprint: str, patch: Patch) -> Tensor | None:
    """A patch that is in `folder`, else None."""
    return kept_values(folder, fingerprint, patch.at.layer, [patch.stat]).get(patch.stat.text)


@contextmanager
def _output(layer: nn.Module, module: str) -> Iterator[list[Any]]:
    """The outputs of a module of a layer, each time that it runs."""
    seen: list[Any] = []

    def see(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # Some experts give what their router scored, too.
        seen.append(output[0] if isinstance(output, tuple) else output)

    hook = layer.get_submodule(module).register_forward_hook(see)
    try:
        yield seen
    finally:
        hook.remove()
