"""One layer of the base with the changes of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.layer.difference import changes_text
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import LayerChange
from lbdsl.measure.expressions import made_of
from lbdsl.measure.packed import rounded_weights

AGAIN = "start from the base model instead of an artifact"


def variant_of(model: Any, layer: int, change: LayerChange, statistics: Mapping[str, Tensor]) -> torch.nn.Module:
    """Layer `layer` after `change`. It shares the base's parameters except those that are recomputed, from `statistics` if
    their expressions use any, and those that are rounded to be stored. Returns the base's own layer if nothing changes.

    Parameters that a part newly adds are initialized from a fixed seed, so that a measurement can be repeated. Raises LB449
    if the layer no longer has the weights that the change needs.
    """
    present = model.config.lbdsl["layers"][layer]
    wanted = change.spec.to_json()
    if wanted == present and not change.weights:
        return model.model.layers[layer]
    device = model.lm_head.weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Without a GPU in use the latter notes its caller each time, which takes as long as the rest.
        torch.default_generator.manual_seed(0) if device.type == "cpu" else torch.manual_seed(0)
        try:
            made = made_of(model, layer, change.weights, statistics)
            made |= rounded_weights(model, layer, change.spec, made)
            return model.model.layer_variant(layer, wanted, made)
        except ValueError as problem:
            said = ", ".join(changes_text(LayerSpec.model_validate(present), change.spec, "->") or ["new weights"])
            raise fail(
                "LB449",
                f"layer {layer} cannot become this ({said}): {problem}",
                help=AGAIN if "has lost" in str(problem) else (),
            ) from None
