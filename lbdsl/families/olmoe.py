"""OLMoE: norms over all queries and keys, experts in every layer."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, NO_ROUTER_LOGITS, ExpertLayers, Family, Only
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers, computes_silu
from lbdsl.families.rows import ALL, QK_NORMS, experts, projections

_EXPERTS = Lacks("experts")


def _normed(config) -> str | None:
    return "normalized gates (norm_topk_prob)" if config.get("norm_topk_prob") else None


FAMILY = Family(
    model_type="olmoe",
    examples="OLMoE 1B-7B",
    classes=Classes("olmoe", "Olmoe"),
    rows={"attention": (*projections(biased=ALL, when="attention_bias"), *QK_NORMS), "moe": experts()},
    layers=ExpertLayers(experts=64, top_k=8),
    tied_by_default=False,
    limits=(
        NO_ROUTER_LOGITS,
        Only("clip_qkv", (None,), "queries, keys and values are clipped, and rules for KV heads do not know of it"),
        Only("sliding_window", (None,), "its attention ignores it while its cache obeys it"),
        *COMMON_LIMITS,
    ),
    flags=MappingProxyType({"attention_bias": False}),
    epsilon=1e-5,
    gguf=GgufNames(Graph("olmoe", square=True, ungrouped=True), deci=_EXPERTS, granite_swa=_EXPERTS, problem=_normed),
    decilm=_EXPERTS,
    vllm=VllmLayers("lbdsl.vllm.olmoe", without=("attention_bias",)),
    # It never normalizes gates, and has numbers of its own.
    vllm_native=lambda config: (
        computes_silu(config)
        and not config.get("norm_topk_prob")
        and config.get("rms_norm_eps", 1e-5) == 1e-5
        and config.get("head_dim") is None
    ),
)
