"""SmolLM3: every fourth layer has no rotary embeddings; those may have a window."""

from types import MappingProxyType

from lbdsl.families.base import Family, windows_by_type
from lbdsl.families.rows import ALL, gated_mlp, projections


def _without_rope(layer: int, config) -> bool:
    listed = config.get("no_rope_layers")
    if isinstance(listed, list) and layer < len(listed):
        return not listed[layer]
    interval = config.get("no_rope_layer_interval", 4)
    return isinstance(interval, int) and interval > 0 and (layer + 1) % interval == 0


FAMILY = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    examples="SmolLM3 3B",
    attention=projections(biased=ALL, when="attention_bias"),
    mlp=gated_mlp(biases_when="mlp_bias"),
    tied_by_default=True,
    windows=windows_by_type(None, _without_rope, switch="use_sliding_window"),
    size_defaults=MappingProxyType({"kv_heads": 4}),
    flags=MappingProxyType({"attention_bias": False, "mlp_bias": False}),
)
