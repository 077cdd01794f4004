"""Pushing stored hidden states through a model on disk, layer by layer: each layer is read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lbdsl.layer.weights import LayerChange
from lbdsl.measure.loaded_model import LoadedModel
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.variant import StatisticsOf, no_statistics, variant_of

Changes = Mapping[int, LayerChange]
"""What layers become: it makes a changed model out of the base."""

Observer = Callable[[Any, Tensor, Tensor, Any], None]
"""Sees a layer with its weights, the stream before it and after it, and the layers' inputs."""


@dataclass
class Flow:
    """B sequences of N tokens on their way: the base's stream, and one for every changed model that has branched off.

    observers: by layer. `last_BND` and `changed` are, at the end, the streams before the final norm, [B, N, D].
    """

    ids_BN: Tensor
    changes: Sequence[Changes] = ()
    observers: Mapping[int, Observer] = field(default_factory=dict)
    last_BND: Tensor = field(init=False)
    changed: list[Tensor | None] = field(init=False)
    inputs: Any = field(init=False)

    def running(self, layer: int) -> int:
        """Streams that go through `layer`, the base's among them."""
        return 1 + sum(1 for changes in self.changes if changes and min(changes) <= layer)


Around = Callable[[int, nn.Module], AbstractContextManager[None]]
"""Entered with a layer and its index around all that goes through it."""


@torch.inference_mode()
def push(
    model: StreamedModel | LoadedModel,
    flows: Sequence[Flow],
    done: Callable[[int], None] = lambda layer: None,
    *,
    around: Around = lambda index, layer: nullcontext(),
    statistics: StatisticsOf = no_statistics,
    stop: int | None = None,
) -> None:
    """Take `flows` from tokens to the last layer, or to the one before `stop`. `done` is told of each layer when all flows
    are through it.

    A changed model leaves the base's stream at its first changed layer; one without changes is the base.
    Raises LbdslError LB449 as `variant_of` does.
    """
    # Without padding, positions and masks depend on the shape alone, and can be large.
    inputs: dict[torch.Size, Any] = {}
    for flow in flows:
        flow.last_BND = model.embed(flow.ids_BN)
        if flow.ids_BN.shape not in inputs:
            inputs[flow.ids_BN.shape] = model.hybrid.model.prepare(flow.last_BND)
        flow.inputs = inputs[flow.ids_BN.shape]
        flow.changed = [None] * len(flow.changes)
    for index in range(model.layers if stop is None else stop):
        with model.layer(index) as layer, around(index, layer):
            made: dict[LayerChange, Any] = {}
            for flow in flows:
                _through(model, flow, layer, index, made, statistics)
            # Variants share the layer's weights, which must go before the next layer's come.
            del made, layer
        done(index)
    for flow in flows:
        flow.changed = [flow.last_BND if state is None else state for state in flow.changed]


def _through(
    model: StreamedModel | LoadedModel,
    flow: Flow,
    layer: Any,
    index: int,
    made: dict[LayerChange, Any],
    statistics: StatisticsOf,
) -> None:
    """One flow through one layer; `made` keeps the layer's variants for the flows after it."""
    body = model.hybrid.model
    for number, changes in enumerate(flow.changes):
        state_BND = flow.changed[number]
        if state_BND is None and index in changes:
            state_BND = flow.last_BND
        if state_BND is None:
            continue
        used = layer
        if index in changes:
            key = changes[index]
            if key not in made:
                made[key] = variant_of(model.hybrid, index, changes[index], statistics(index))
            used = made[key]
        flow.changed[number] = body.run_layer(used, index, state_BND, flow.inputs)
    before_BND = flow.last_BND
    flow.last_BND = body.run_layer(layer, index, before_BND, flow.inputs)
    if index in flow.observers:
        flow.observers[index](layer, before_BND, flow.last_BND, flow.inputs)
