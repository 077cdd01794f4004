"""Pushing hidden states through a model layer by layer: the one loop that scores, joint losses and judging are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lbdsl.core.progress import Report
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.memory import free_bytes
from lbdsl.measure.variant import StatisticsOf, no_statistics, variant_of
from lbdsl.plan.estimate import SOFTMAX_COST

T = TypeVar("T")

SHARE = 0.3
"""Of free memory that streams of hidden states may take."""

Changes = Mapping[int, LayerChange]
"""What layers become: it makes a changed model out of the base."""

Variants = dict[tuple[int, LayerChange], nn.Module]
"""Changed layers, by what they were made of."""

Observer = Callable[[Any, Tensor, Tensor, Any], None]
"""Sees a layer with its weights, the stream before it and after it, and the layers' inputs."""

Around = Callable[[int, nn.Module], AbstractContextManager[Any]]
"""What is entered around all that goes through a layer: its number, and the layer with its weights."""


@dataclass
class Flow:
    """B sequences of N tokens on their way: the base's stream, and one for every changed model that has branched off.

    observers: by layer. `base_BND` and `changed` are, at the end, the streams before the final norm, [B, N, D]; those of
    `changed` are None before their first changed layer.
    """

    ids_BN: Tensor
    changes: Sequence[Changes] = ()
    observers: Mapping[int, Observer] = field(default_factory=dict)
    base_BND: Tensor = field(init=False)
    changed: list[Tensor | None] = field(init=False)
    inputs: Any = field(init=False)

    def running(self, layer: int) -> int:
        """Streams that go through `layer`, the base's among them."""
        return 1 + sum(1 for changes in self.changes if changes and min(changes) <= layer)

    def ends(self) -> list[Tensor]:
        """`changed`, with the base's stream for a model in which nothing changes."""
        return [self.base_BND if state is None else state for state in self.changed]


@torch.inference_mode()
def push(
    source: LayerSource,
    flows: Sequence[Flow],
    done: Callable[[int], None] = lambda layer: None,
    *,
    around: Around | None = None,
    kept: Variants | None = None,
    statistics: StatisticsOf = no_statistics,
    stop: int | None = None,
) -> None:
    """Take `flows` from tokens to the last layer, or to the one before `stop`. A changed model leaves the base's stream at
    its first changed layer, so L models with one changed layer each cost about L / 2 forward passes; every layer is asked
    for once.

    done: told of each layer when all flows are through it. around: entered once a layer, around all flows through it.
    kept: changed layers are looked for there and left there for the next push; only for a source in memory.
    statistics: those that changed layers are made from.
    Raises LbdslError LB449 as `variant_of` does.
    """
    # Without padding, positions and masks depend on the shape alone, and can be large.
    inputs: dict[torch.Size, Any] = {}
    for flow in flows:
        flow.base_BND = source.embed(flow.ids_BN)
        if flow.ids_BN.shape not in inputs:
            inputs[flow.ids_BN.shape] = source.hybrid.model.prepare(flow.base_BND)
        flow.inputs = inputs[flow.ids_BN.shape]
        flow.changed = [None] * len(flow.changes)
    for index in range(source.layers if stop is None else stop):
        with source.layer(index) as layer, nullcontext() if around is None else around(index, layer):
            variants = {} if kept is None else kept
            for flow in flows:
                _through(source, flow, layer, index, variants, statistics)
            # Variants share the layer's weights, which must go before the next layer's come.
            del variants, layer
        done(index)


def _through(source: LayerSource, flow: Flow, layer: Any, index: int, variants: Variants, statistics: StatisticsOf) -> None:
    """One flow through one layer."""
    run_layer = source.hybrid.model.run_layer
    for number, changes in enumerate(flow.changes):
        state_BND, used = flow.changed[number], layer
        if index in changes:
            key = (index, changes[index])
            if key not in variants:
                variants[key] = variant_of(source.hybrid, index, changes[index], statistics(index))
            used = variants[key]
            state_BND = flow.base_BND if state_BND is None else state_BND
        if state_BND is not None:
            flow.changed[number] = run_layer(used, index, state_BND, flow.inputs)
    before_BND = flow.base_BND
    flow.base_BND = run_layer(layer, index, before_BND, flow.inputs)
    if index in flow.observers:
        flow.observers[index](layer, before_BND, flow.base_BND, flow.inputs)


class Meter:
    """Progress in layer-forwards of one sequence, which make an honest ETA; the head counts as the layers that take as
    long. Only shapes are looked at: of the last layer and of the head."""

    def __init__(self, progress: Report | None, source: LayerSource):
        head = source.hybrid.lm_head.weight
        layer = sum(p.numel() for p in source.hybrid.model.layers[-1].parameters())
        self._head = head.shape[0] * (head.shape[1] + SOFTMAX_COST) / max(layer, head.shape[1])
        self._layers = source.layers
        self._progress = progress
        self._done = 0.0
        self._total = 0.0

    def run(self, sequences: int, start: int = 0) -> float:
        """Units of `sequences` sequences through the layers from `start` on, and the head."""
        return sequences * (self._layers - start + self._head)

    def heads(self, sequences: int) -> float:
        """Units of the head alone."""
        return self.run(sequences, self._layers)

    def expect(self, units: float) -> None:
        """Units that will be added; call it for all of the work before the first `add`."""
        self._total += units

    def add(self, units: float, note: str) -> None:
        self._done += units
        if self._progress is not None:
            self._progress(self._done, self._total, note)

    def layers_of(self, flows: Sequence[Flow], where: str) -> Callable[[int], None]:
        """What `push` tells of each layer that `flows` are through."""
        return lambda layer: self.add(
            sum(flow.running(layer) * len(flow.ids_BN) for flow in flows), f"{where}, layer {layer}"
        )


def room_for_streams(*sources: LayerSource) -> float:
    """Bytes that streams of hidden states may take."""
    return SHARE * min(free_bytes(source.device) for source in sources)


def stream_bytes(source: LayerSource, sequences: int, seq: int) -> int:
    """One stream of hidden states of so many sequences of `seq` tokens."""
    return sequences * seq * source.hybrid.config.hidden_size * source.hybrid.dtype.itemsize


def grouped(items: Iterable[T], size: Callable[[T], int], room: float) -> list[list[T]]:
    """Items, in order, in groups of at most `room` bytes; one that is larger is alone."""
    groups: list[list[T]] = []
    left = -1.0
    for item in items:
        if size(item) > left:
            groups.append([])
            left = room
        groups[-1].append(item)
        left -= size(item)
    return groups
