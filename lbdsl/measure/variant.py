"""One layer of the base as it would be under a plan."""

from __future__ import annotations

from typing import Any

import torch

from lbdsl.core.diagnostic import fail
from lbdsl.layer.difference import changes_text
from lbdsl.layer.spec import LayerSpec

AGAIN = "start from the base model instead of an artifact"


def variant_of(model: Any, layer: int, spec: LayerSpec) -> torch.nn.Module:
    """Layer `layer` under `spec`; it shares the base's parameters. The base's own where nothing changes.

    Parameters that a part brings anew start from a fixed seed, so that a measurement can be repeated. Raises LB449
    where the layer has lost the weights that it would need.
    """
    present = model.config.lbdsl["layers"][layer]
    wanted = spec.to_json()
    if wanted == present:
        return model.model.layers[layer]
    device = model.lm_head.weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            return model.model.layer_variant(layer, wanted)
        except ValueError as problem:
            change = ", ".join(changes_text(LayerSpec.model_validate(present), spec, "->"))
            raise fail(
                "LB449",
                f"layer {layer} cannot become this ({change}): {problem}",
                help=AGAIN if "has lost" in str(problem) else (),
            ) from None
