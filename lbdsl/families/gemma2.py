"""Gemma 2: norms before and after each sub-block, softcaps on scores and logits, every other layer windowed."""

from types import MappingProxyType

from lbdsl.families.base import CAUSAL, COMMON_LIMITS, Family, Norm
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, computes_gelu
from lbdsl.families.rows import ALL, gated_mlp, projections
from lbdsl.families.windows import WindowsByType
from lbdsl.parts import Slot

NORMS = {
    Slot.MIXER: (Norm("input_layernorm", "attn_norm"), Norm("post_attention_layernorm", "post_attention_norm")),
    Slot.FFN: (Norm("pre_feedforward_layernorm", "ffn_norm"), Norm("post_feedforward_layernorm", "post_ffw_norm")),
}
GELU = "gelu_pytorch_tanh"
_CAPS = {
    "attn_logit_softcapping": ("attn_logit_softcapping", 50.0),
    "final_logit_softcapping": ("final_logit_softcapping", 30.0),
}


def _uncapped(config) -> str | None:
    if config.get("tie_word_embeddings") is False:
        return "a Gemma 2 whose head is not its embeddings"
    capped = all(config.get(field, usual) for field, usual in _CAPS.values())
    return None if capped else "Gemma 2 without caps on scores and logits"


_NORMS = Lacks("norms after each sub-block")

FAMILY = Family(
    model_type="gemma2",
    examples="Gemma 2",
    classes=Classes("gemma2", "Gemma2"),
    rows={"attention": projections(biased=ALL, when="attention_bias"), "gated_mlp": gated_mlp()},
    norms=NORMS,
    tied_by_default=True,
    windows=WindowsByType(4096, lambda layer, config: layer % 2 == 0),
    size_defaults=MappingProxyType({"kv_heads": 4, "head_dim": 256}),
    limits=(CAUSAL, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
    logit_softcap="final_logit_softcapping",
    attention_softcap="attn_logit_softcapping",
    gguf=GgufNames(
        Graph("gemma2", windows=True, always_windowed=True, norm_offset=1.0, activation=GELU),
        deci=_NORMS,
        granite_swa=_NORMS,
        numbers=MappingProxyType(_CAPS),
        problem=_uncapped,
        biggest=46,
    ),
    decilm=Lacks("norms after each sub-block and capped logits"),
    vllm=Lacks("norms after each sub-block and capped logits"),
    # Its head is always the embedding.
    vllm_native=lambda config: computes_gelu(config) and config.get("tie_word_embeddings") is not False,
)
