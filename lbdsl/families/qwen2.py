"""Qwen 2 and 2.5: biases on queries, keys and values; windows in the later layers if enabled in the config."""

from types import MappingProxyType

from lbdsl.families.base import Family
from lbdsl.families.engines import Classes, GgufNames, Graph, VllmLayers
from lbdsl.families.rows import gated_mlp, projections
from lbdsl.families.windows import WindowsByType


def later_layers(layer: int, config) -> bool:
    """Whether `layer` is at or after `max_window_layers`."""
    first = config.get("max_window_layers", 28)
    return isinstance(first, int) and layer >= first


FAMILY = Family(
    model_type="qwen2",
    examples="Qwen2, Qwen2.5",
    classes=Classes("qwen2", "Qwen2"),
    rows={"attention": projections(biased=("q", "k", "v")), "gated_mlp": gated_mlp()},
    tied_by_default=False,
    windows=WindowsByType(4096, later_layers, switch="use_sliding_window"),
    size_defaults=MappingProxyType({"kv_heads": 32}),
    gguf=GgufNames(Graph("qwen2", biases=frozenset({"attn_q", "attn_k", "attn_v"}), square=True)),
    # Its config.json does not record that queries, keys and values have biases and the output projection has none.
    decilm={"qkv_bias": True, "attention_bias": False},
    granite_swa=True,
    vllm=VllmLayers("lbdsl.vllm.qwen2"),
)
