"""Olmo 3: norms after each sub-block and over all queries and keys; three layers of four windowed, with rotary
embeddings of their own."""

from types import MappingProxyType

from lbdsl.families.base import Family, Norm, windows_by_type
from lbdsl.families.rows import ALL, QK_NORMS, gated_mlp, projections

FAMILY = Family(
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    examples="Olmo 3 7B and 32B",
    attention=(*projections(biased=ALL, when="attention_bias"), *QK_NORMS),
    attention_norms=(None, Norm("post_attention_layernorm")),
    mlp=gated_mlp(),
    mlp_norms=(None, Norm("post_feedforward_layernorm")),
    tied_by_default=False,
    windows=windows_by_type(4096, lambda layer, config: (layer + 1) % 4 != 0),
    flags=MappingProxyType({"attention_bias": False}),
)
