"""One layer of the base as it would be under an action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lbdsl.actions import Action
from lbdsl.core.diagnostic import fail
from lbdsl.layer.facts import ModelFacts
from lbdsl.model.hybrid.lbdsl_layers import merged_spec


def entries_of(action: Action, facts: ModelFacts, layer: int) -> dict[str, Any]:
    """The entries that an action puts in a layer's specification; none for one that keeps the layer. Raises LB449."""
    entries: dict[str, Any] = {}
    for change in action.changes(facts, layer):
        if not change.spec:
            raise fail(
                "LB449",
                f"the effect of `{action.text()}` on one layer cannot be measured",
                help="its change is not part of a layer's specification; rank by another action, such as drop",
            )
        entries |= change.spec
    return entries


def variant_of(model: Any, layer: int, entries: Mapping[str, Any]) -> torch.nn.Module:
    """Layer `layer` with `entries` in its specification; it shares the base's parameters. The base's own where nothing
    changes.

    Parameters that a mixer brings anew start from a fixed seed, so that a measurement can be repeated. Raises LB449
    where the layer has lost the weights that it would need.
    """
    present = model.config.lbdsl["layers"][layer]
    spec = merged_spec(present, dict(entries))
    if spec == present:
        return model.model.layers[layer]
    device = model.lm_head.weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            return model.model.layer_variant(layer, spec)
        except ValueError as problem:
            raise fail(
                "LB449",
                f"layer {layer} cannot become {dict(entries)}: {problem}",
                help="start from the base model instead of an artifact",
            ) from None
