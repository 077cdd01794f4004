"""Gemma 2: norms before and after each sub-block, caps on scores and logits, every other layer windowed."""

from types import MappingProxyType

from lbdsl.families.base import CAUSAL, COMMON_LIMITS, Family, Norm, windows_by_type
from lbdsl.families.rows import ALL, gated_mlp, projections

FAMILY = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    examples="Gemma 2",
    attention=projections(biased=ALL, when="attention_bias"),
    attention_norms=(Norm("input_layernorm"), Norm("post_attention_layernorm")),
    mlp=gated_mlp(),
    mlp_norms=(Norm("pre_feedforward_layernorm"), Norm("post_feedforward_layernorm")),
    tied_by_default=True,
    windows=windows_by_type(4096, lambda layer, config: layer % 2 == 0),
    size_defaults=MappingProxyType({"kv_heads": 4, "head_dim": 256}),
    limits=(CAUSAL, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
    attention_softcap="attn_logit_softcapping",
)
