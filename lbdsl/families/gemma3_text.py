"""Gemma 3, the text models: norms before and after each sub-block and on queries and keys; five layers of six windowed,
with rotary embeddings of their own."""

from types import MappingProxyType

from lbdsl.families.base import CAUSAL, COMMON_LIMITS, GGUF_SIZES, Family, Norm, windows_by_type
from lbdsl.families.rows import ALL, QK_HEAD_NORMS, gated_mlp, projections


def _not_every_sixth(layer: int, config) -> bool:
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    return isinstance(pattern, int) and pattern > 0 and (layer + 1) % pattern != 0


FAMILY = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    examples="Gemma 3 270M and 1B",
    gguf_architecture="gemma3",
    attention=(*projections(biased=ALL, when="attention_bias"), *QK_HEAD_NORMS),
    attention_norms=(Norm("input_layernorm", "attn_norm"), Norm("post_attention_layernorm", "post_attention_norm")),
    mlp=gated_mlp(),
    mlp_norms=(Norm("pre_feedforward_layernorm", "ffn_norm"), Norm("post_feedforward_layernorm", "post_ffw_norm")),
    tied_by_default=True,
    windows=windows_by_type(4096, _not_every_sixth),
    size_defaults=MappingProxyType({"kv_heads": 4, "head_dim": 256}),
    gguf_sizes=MappingProxyType({**GGUF_SIZES, "head_dim": "attention.key_length"}),
    gguf_fields=MappingProxyType({"attention.sliding_window": "sliding_window"}),
    limits=(CAUSAL, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
)
