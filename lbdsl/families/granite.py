"""Granite, the dense models: Llama's layers, with scalar multipliers of embeddings, scores, sub-blocks and logits."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, Family, Multipliers, ignored_windows
from lbdsl.families.engines import ALL_BIASES, Classes, GgufNames, Graph, Lacks, computes_silu
from lbdsl.families.rows import ALL, gated_mlp, projections

MULTIPLIERS = Multipliers("embedding_multiplier", "residual_multiplier", "logits_scaling")
GGUF_NUMBERS = MappingProxyType(
    {
        "attention.scale": ("attention_multiplier", 1.0),
        "embedding_scale": ("embedding_multiplier", 1.0),
        "residual_scale": ("residual_multiplier", 1.0),
        "logit_scale": ("logits_scaling", 1.0),
    }
)
_MULTIPLIERS = Lacks("multipliers of embeddings, scores, sub-blocks and logits")

FAMILY = Family(
    model_type="granite",
    examples="Granite 3 (dense)",
    classes=Classes("granite", "Granite"),
    rows={"attention": projections(biased=ALL, when="attention_bias"), "gated_mlp": gated_mlp(biases_when="mlp_bias")},
    tied_by_default=False,
    limits=(*ignored_windows("Granite"), *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False, "mlp_bias": False}),
    multipliers=MULTIPLIERS,
    gguf=GgufNames(
        Graph("granite", pairs=True, frequency_table=True, multipliers=True, biases=ALL_BIASES),
        deci=_MULTIPLIERS,
        numbers=GGUF_NUMBERS,
    ),
    decilm=_MULTIPLIERS,
    vllm=_MULTIPLIERS,
    vllm_native=computes_silu,
)
