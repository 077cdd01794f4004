"""Llama: pre-norms, grouped queries, no native window."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, Family, ignored_windows
from lbdsl.families.engines import ALL_BIASES, Classes, GgufNames, Graph, StockClass, VllmLayers
from lbdsl.families.rows import ALL, gated_mlp, projections

GRAPH = Graph("llama", pairs=True, frequency_table=True, biases=ALL_BIASES)
MINISTRAL = StockClass("ministral", "MinistralForCausalLM")

FAMILY = Family(
    model_type="llama",
    examples="Llama 2 and 3, SmolLM2, TinyLlama",
    classes=Classes("llama", "Llama"),
    rows={"attention": projections(biased=ALL, when="attention_bias"), "gated_mlp": gated_mlp(biases_when="mlp_bias")},
    tied_by_default=False,
    limits=(*ignored_windows("Llama"), *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False, "mlp_bias": False}),
    gguf=GgufNames(GRAPH, read=True),
    decilm={},
    granite_swa=True,
    vllm=VllmLayers("lbdsl.vllm.llama"),
    windowed_as=MINISTRAL,
)
