"""Qwen 2 and 2.5: biases on queries, keys and values; windows for the later layers where they are switched on."""

from types import MappingProxyType

from lbdsl.families.base import Family, windows_by_type
from lbdsl.families.rows import gated_mlp, projections


def later_layers(layer: int, config) -> bool:
    """Layers from `max_window_layers` on."""
    first = config.get("max_window_layers", 28)
    return isinstance(first, int) and layer >= first


FAMILY = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    examples="Qwen2, Qwen2.5",
    attention=projections(biased=("q", "k", "v")),
    mlp=gated_mlp(),
    tied_by_default=False,
    windows=windows_by_type(4096, later_layers, switch="use_sliding_window"),
    size_defaults=MappingProxyType({"kv_heads": 32}),
)
