"""Gemma 3, also the text model of those that see images: norms before and after each sub-block and on queries and keys;
five of six layers are windowed, with their own rotary embeddings."""

from types import MappingProxyType

from lbdsl.families.base import CAUSAL, COMMON_LIMITS, Family
from lbdsl.families.engines import GGUF_SIZES, Classes, GgufNames, Graph, Lacks, computes_gelu
from lbdsl.families.gemma2 import GELU, NORMS
from lbdsl.families.rows import ALL, QK_HEAD_NORMS, gated_mlp, projections
from lbdsl.families.windows import WindowsByType


def _not_every_sixth(layer: int, config) -> bool:
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    return isinstance(pattern, int) and pattern > 0 and (layer + 1) % pattern != 0


def _capped(config) -> str | None:
    return "a cap on scores" if config.get("attn_logit_softcapping") else None


_NORMS = Lacks("norms after each sub-block")

FAMILY = Family(
    model_type="gemma3_text",
    examples="Gemma 3, the text models",
    classes=Classes("gemma3", "Gemma3", body="Gemma3TextModel", config="Gemma3TextConfig"),
    inside=("gemma3",),
    rows={"attention": (*projections(biased=ALL, when="attention_bias"), *QK_HEAD_NORMS), "gated_mlp": gated_mlp()},
    norms=NORMS,
    tied_by_default=True,
    windows=WindowsByType(4096, _not_every_sixth),
    rope_by_layer_type=True,
    rope_theta=1_000_000.0,
    local_rope_theta=10_000.0,
    size_defaults=MappingProxyType({"heads": 8, "kv_heads": 4, "head_dim": 256, "vocab": 262_208, "positions": 131_072}),
    limits=(CAUSAL, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
    logit_softcap="final_logit_softcapping",
    gguf=GgufNames(
        Graph("gemma3", windows=True, full_yarn=False, norm_offset=1.0, activation=GELU),
        deci=_NORMS,
        granite_swa=_NORMS,
        numbers=MappingProxyType({"final_logit_softcapping": ("final_logit_softcapping", 0.0)}),
        problem=_capped,
        biggest=62,
        read=True,
        sizes=MappingProxyType({**GGUF_SIZES, "head_dim": "attention.key_length"}),
        fields=MappingProxyType({"attention.sliding_window": "sliding_window"}),
    ),
    decilm=Lacks("norms after each sub-block and of queries and keys"),
    vllm=Lacks("norms after each sub-block and two kinds of rotary embeddings"),
    vllm_native=computes_gelu,
)
