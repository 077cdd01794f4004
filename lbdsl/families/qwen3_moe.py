"""Qwen 3 with experts: Qwen 3's attention; most layers, or all, have experts in the place of the MLP."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, NO_ROUTER_LOGITS, ExpertLayers, Family
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers, computes_silu
from lbdsl.families.rows import ALL, QK_HEAD_NORMS, experts, gated_mlp, projections
from lbdsl.families.windows import OneWindow

_EXPERTS = Lacks("experts")


def _not_normed(config) -> str | None:
    return None if config.get("norm_topk_prob") else "gates that are not normalized (norm_topk_prob)"


FAMILY = Family(
    model_type="qwen3_moe",
    examples="Qwen3-30B-A3B, Qwen3-235B-A22B",
    classes=Classes("qwen3_moe", "Qwen3Moe"),
    rows={
        "attention": (*projections(biased=ALL, when="attention_bias"), *QK_HEAD_NORMS),
        "gated_mlp": gated_mlp(),
        "moe": experts(),
    },
    layers=ExpertLayers(experts=128, top_k=8, width="moe_intermediate_size", usual_width=768),
    tied_by_default=False,
    windows=OneWindow(4096, switch="use_sliding_window"),
    size_defaults=MappingProxyType({"kv_heads": 4, "intermediate": 6144}),
    limits=(NO_ROUTER_LOGITS, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
    gguf=GgufNames(Graph("qwen3moe"), deci=_EXPERTS, granite_swa=_EXPERTS, problem=_not_normed),
    decilm=_EXPERTS,
    vllm=VllmLayers("lbdsl.vllm.qwen3_moe", without=("attention_bias",)),
    vllm_native=computes_silu,
)
