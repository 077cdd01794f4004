"""Qwen 3: norms of queries and keys for each head; windows as in Qwen 2."""

from types import MappingProxyType

from lbdsl.families.base import Family, windows_by_type
from lbdsl.families.qwen2 import later_layers
from lbdsl.families.rows import ALL, QK_HEAD_NORMS, gated_mlp, projections

FAMILY = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    examples="Qwen3 (dense)",
    attention=(*projections(biased=ALL, when="attention_bias"), *QK_HEAD_NORMS),
    mlp=gated_mlp(),
    tied_by_default=False,
    windows=windows_by_type(4096, later_layers, switch="use_sliding_window"),
    size_defaults=MappingProxyType({"kv_heads": 32, "head_dim": 128}),
    flags=MappingProxyType({"attention_bias": False}),
)
