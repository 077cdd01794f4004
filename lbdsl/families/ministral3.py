"""Ministral 3: Llama's layers with YaRN, queries scaled by their position, and one window for all layers or none."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, Family, Only
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers
from lbdsl.families.rows import gated_mlp, projections
from lbdsl.families.windows import OneWindow

_SCALED = Lacks("queries scaled by their position")


def _without_yarn(config) -> str | None:
    rope = config.get("rope_parameters") or {}
    # Its scale of queries begins where YaRN does.
    return None if rope.get("rope_type", rope.get("type")) == "yarn" else "queries scaled by their position without YaRN"


FAMILY = Family(
    model_type="ministral3",
    examples="Ministral 3 3B, 8B and 14B",
    classes=Classes("ministral3", "Ministral3"),
    inside=("mistral3",),
    rows={"attention": projections(), "gated_mlp": gated_mlp()},
    tied_by_default=False,
    windows=OneWindow(None),
    size_defaults=MappingProxyType({"heads": 32, "kv_heads": 8, "head_dim": 128, "vocab": 131_072, "positions": 262_144}),
    limits=(Only("layer_types", (None,), "its attention ignores it while its cache obeys it"), *COMMON_LIMITS),
    rope_theta=1_000_000.0,
    rope_needs=("llama_4_scaling_beta", "original_max_position_embeddings"),
    epsilon=1e-5,
    gguf=GgufNames(
        Graph("mistral3", pairs=True, mscale=True),
        deci=_SCALED,
        granite_swa=_SCALED,
        problem=_without_yarn,
        numbers=MappingProxyType({"attention.temperature_scale": ("rope_parameters.llama_4_scaling_beta", 0.1)}),
    ),
    decilm=_SCALED,
    vllm=VllmLayers("lbdsl.vllm.ministral3"),
)
