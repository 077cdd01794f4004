"""Run hidden states through a model layer by layer: the one loop behind scores, joint losses and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lbdsl.core.progress import Report
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.branches import Branches, joined
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.memory import free_bytes
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.measure.variant import variant_of
from lbdsl.plan.estimate import SOFTMAX_COST

T = TypeVar("T")

SHARE = 0.3
"""The fraction of free memory that hidden states may take."""

Changes = Mapping[int, LayerChange]
"""The change of each changed layer, by layer index; together they define a changed model."""

Variants = dict[tuple[int, LayerChange], nn.Module]
"""Changed layers, by layer index and change."""

Observer = Callable[[Any, Tensor, Tensor, Any], None]
"""Called with a layer with its weights, the hidden states before it and after it, and the layers' inputs."""

Around = Callable[[int, nn.Module], AbstractContextManager[Any]]
"""Returns a context manager that is active while a layer runs; called with its index and the layer with its weights."""


@dataclass
class Flow:
    """The hidden states of B sequences of N tokens: in the base, and in every changed model after its first changed layer.

    observers: by layer. At the end, `base_BND` and `changed` are the hidden states before the final norm, [B, N, D]; an
    item of `changed` is None until the first changed layer of its model. `shared`: so many first tokens are the same in
    all sequences; they are run once, and at the end the states are those behind them, of the tokens `behind`. `keeps`: so
    is the cache of what is shared, in `inputs`.
    """

    ids_BN: Tensor
    changes: Sequence[Changes] = ()
    observers: Mapping[int, Observer] = field(default_factory=dict)
    shared: int = 0
    keeps: bool = False
    base_BND: Tensor = field(init=False)
    changed: list[Tensor | None] = field(init=False)
    inputs: Any = field(init=False)

    @property
    def behind(self) -> Tensor:
        return self.ids_BN[:, self.shared :]

    def ends(self) -> list[Tensor]:
        """`changed`, with the base's hidden states for a model without changes."""
        return [self.base_BND if state is None else state for state in self.changed]


def runs_of_layers(models: Sequence[Changes], layers: int) -> list[int]:
    """How often `push` runs each layer: once for the base, and once for the changed models that are equal up to there."""
    found, reached = [], dict.fromkeys(range(len(models)), 0)
    for index in range(layers):
        next_of: dict[tuple[int, LayerChange | None], int] = {(0, None): 0}
        for number, changes in enumerate(models):
            reached[number] = next_of.setdefault((reached[number], changes.get(index)), len(next_of))
        found.append(len(next_of))
    return found


@torch.inference_mode()
def push(
    source: LayerSource,
    flows: Sequence[Flow],
    done: Callable[[int], None] = lambda layer: None,
    *,
    around: Around | None = None,
    kept: Variants | None = None,
    statistics: StatisticsOf = NO_STATISTICS,
    stop: int | None = None,
) -> None:
    """Run `flows` from tokens through the last layer, or through layer `stop` - 1. Models that are
    equal up to a layer share the hidden states there, so L models with one changed layer each cost about L / 2 forward
    passes. Every layer is loaded once.

    done: called with each layer's index after all flows have passed it. around: entered once per layer, around all flows.
    kept: a cache of changed layers that is reused by the next push; only for a source in memory.
    statistics: used to compute the new weights of changed layers.
    Raises LbdslError LB449 as `variant_of` does.
    """
    # Without padding, positions and masks depend on the shape alone, and can be large.
    inputs: dict[torch.Size, Any] = {}
    for flow in flows:
        flow.base_BND = source.embed(joined(flow.ids_BN, flow.shared) if flow.shared else flow.ids_BN)
        if flow.shared:
            flow.inputs = Branches(source.hybrid.model, flow.base_BND, len(flow.ids_BN), flow.shared, flow.keeps)
        elif flow.ids_BN.shape not in inputs:
            inputs[flow.ids_BN.shape] = source.hybrid.model.prepare(flow.base_BND)
        if not flow.shared:
            flow.inputs = inputs[flow.ids_BN.shape]
        flow.changed = [None] * len(flow.changes)
    for index in range(source.layers if stop is None else stop):
        with source.layer(index) as layer, nullcontext() if around is None else around(index, layer):
            variants = {} if kept is None else kept
            for flow in flows:
                _through(source, flow, layer, index, variants, statistics)
            # Variants share the layer's weights, which must be freed before the next layer is loaded.
            del variants, layer
        done(index)
    for flow in flows:
        if flow.shared:
            ends = {id(state): flow.inputs.rows_of(state) for state in (flow.base_BND, *flow.changed) if state is not None}
            flow.changed = [None if state is None else ends[id(state)] for state in flow.changed]
            flow.base_BND = ends[id(flow.base_BND)]


def _through(source: LayerSource, flow: Flow, layer: Any, index: int, variants: Variants, statistics: StatisticsOf) -> None:
    """Run one flow through one layer."""

    def run_layer(layer: Any, state_BND: Tensor) -> Tensor:
        if flow.shared:
            return flow.inputs.run(layer, index, state_BND)
        return source.hybrid.model.run_layer(layer, index, state_BND, flow.inputs)

    # All hidden states before the layer exist when this begins, so that no two of them have one identity.
    after: dict[tuple[int, LayerChange | None], Tensor] = {}
    for number, changes in enumerate(flow.changes):
        state_BND, change = flow.changed[number], changes.get(index)
        if state_BND is None and change is None:
            continue
        state_BND = flow.base_BND if state_BND is None else state_BND
        shared = (id(state_BND), change)
        if shared not in after:
            used = layer
            if change is not None:
                key = (index, change)
                if key not in variants:
                    variants[key] = variant_of(source.hybrid, index, change, statistics(index))
                used = variants[key]
            after[shared] = run_layer(used, state_BND)
        flow.changed[number] = after[shared]
    before_BND = flow.base_BND
    flow.base_BND = run_layer(layer, before_BND)
    if index in flow.observers:
        flow.observers[index](layer, before_BND, flow.base_BND, flow.inputs)


class Meter:
    """Progress in units of one sequence through one layer, so that the ETA is accurate. The head counts as the number of
    layers that take as long, computed from the shapes of the last layer and the head alone."""

    def __init__(self, progress: Report, source: LayerSource):
        head = source.hybrid.lm_head.weight
        layer = sum(p.numel() for p in source.hybrid.model.layers[-1].parameters())
        self._head = head.shape[0] * (head.shape[1] + SOFTMAX_COST) / max(layer, head.shape[1])
        self._layers = source.layers
        self._progress = progress
        self._done = 0.0
        self._total = 0.0

    def runs(self, sequences: int, models: Sequence[Changes] = ()) -> float:
        """Units for `sequences` sequences through the base and changed models."""
        return sequences * sum(runs_of_layers(models, self._layers)) + (1 + len(models)) * self.heads(sequences)

    def heads(self, sequences: int) -> float:
        """Units for the head of one model."""
        return sequences * self._head

    def expect(self, units: float) -> None:
        """Add to the expected total; call it for all of the work before the first `add`."""
        self._total += units

    def add(self, units: float, note: str) -> None:
        self._done += units
        self._progress(self._done, self._total, note)

    def layers_of(self, flows: Sequence[Flow], where: str) -> Callable[[int], None]:
        """The `done` callback for `push`: adds progress for each layer that `flows` have passed."""
        runs = [runs_of_layers(flow.changes, self._layers) for flow in flows]
        return lambda layer: self.add(
            sum(run[layer] * len(flow.ids_BN) for run, flow in zip(runs, flows, strict=True)), f"{where}, layer {layer}"
        )


def room_for_streams(*sources: LayerSource) -> float:
    """Bytes that hidden states may take."""
    return SHARE * min(free_bytes(source.device) for source in sources)


def stream_bytes(source: LayerSource, sequences: int, seq: int) -> int:
    """Bytes of the hidden states of `sequences` sequences of `seq` tokens in one model."""
    return sequences * seq * source.hybrid.config.hidden_size * source.hybrid.dtype.itemsize


def grouped(items: Iterable[T], size: Callable[[T], int], room: float) -> list[list[T]]:
    """Items, in order, in groups of at most `room` bytes; a larger item forms its own group."""
    groups: list[list[T]] = []
    left = -1.0
    for item in items:
        if size(item) > left:
            groups.append([])
            left = room
        groups[-1].append(item)
        left -= size(item)
    return groups
