"""Mixtral: Mistral's attention, experts in every layer."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, NO_ROUTER_LOGITS, ExpertLayers, Family
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers, computes_silu
from lbdsl.families.rows import experts, projections
from lbdsl.families.windows import OneWindow

_EXPERTS = Lacks("experts")

FAMILY = Family(
    model_type="mixtral",
    examples="Mixtral 8x7B and 8x22B",
    classes=Classes("mixtral", "Mixtral"),
    rows={"attention": projections(), "moe": experts(block="block_sparse_moe", gate="w1", up="w3", down="w2")},
    layers=ExpertLayers(experts=8, top_k=2),
    tied_by_default=False,
    windows=OneWindow(None),
    size_defaults=MappingProxyType({"kv_heads": 8}),
    limits=(NO_ROUTER_LOGITS, *COMMON_LIMITS),
    epsilon=1e-5,
    gguf=GgufNames(Graph("llama", pairs=True), deci=_EXPERTS, granite_swa=_EXPERTS),
    decilm=_EXPERTS,
    vllm=VllmLayers("lbdsl.vllm.mixtral"),
    vllm_native=computes_silu,
)
