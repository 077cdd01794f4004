"""SmolLM3: every fourth layer has no rotary embeddings; those may have a window."""

from types import MappingProxyType

from lbdsl.families.base import Family
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers
from lbdsl.families.rows import ALL, gated_mlp, projections
from lbdsl.families.windows import WindowsByType


def _without_rope(layer: int, config) -> bool:
    listed = config.get("no_rope_layers")
    if isinstance(listed, list) and layer < len(listed):
        return not listed[layer]
    interval = config.get("no_rope_layer_interval", 4)
    return isinstance(interval, int) and interval > 0 and (layer + 1) % interval == 0


_ROPE = Lacks("layers without rotary embeddings")

FAMILY = Family(
    model_type="smollm3",
    examples="SmolLM3 3B",
    classes=Classes("smollm3", "SmolLM3"),
    rows={"attention": projections(biased=ALL, when="attention_bias"), "gated_mlp": gated_mlp(biases_when="mlp_bias")},
    tied_by_default=True,
    windows=WindowsByType(None, _without_rope, switch="use_sliding_window"),
    without_rope=_without_rope,
    rope_theta=2_000_000.0,
    size_defaults=MappingProxyType({"kv_heads": 4}),
    flags=MappingProxyType({"attention_bias": False, "mlp_bias": False}),
    gguf=GgufNames(Graph("smollm3", pairs=True, no_rope_every=4), deci=_ROPE),
    decilm=_ROPE,
    granite_swa=True,
    vllm=VllmLayers("lbdsl.vllm.smollm3"),
)
