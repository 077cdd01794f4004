"""Ministral 3: Llama's layers with YaRN, queries scaled by their position, and one window for all layers or none."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, Family, Only
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers
from lbdsl.families.rows import gated_mlp, projections
from lbdsl.families.windows import OneWindow

_SCALED = Lacks("queries scaled by their position")


def _rope_left_out(config) -> str | None:
    return None if config.get("rope_parameters") else "the rotary embeddings of a configuration without rope_parameters"


FAMILY = Family(
    model_type="ministral3",
    examples="Ministral 3 3B, 8B and 14B",
    classes=Classes("ministral3", "Ministral3"),
    rows={"attention": projections(), "gated_mlp": gated_mlp()},
    tied_by_default=False,
    windows=OneWindow(None),
    size_defaults=MappingProxyType({"heads": 32, "kv_heads": 8, "head_dim": 128, "vocab": 131_072, "positions": 262_144}),
    limits=(Only("layer_types", (None,), "its attention ignores it while its cache obeys it"), *COMMON_LIMITS),
    rope_theta=1_000_000.0,
    epsilon=1e-5,
    gguf=GgufNames(
        Graph("mistral3", pairs=True, mscale=True),
        deci=_SCALED,
        granite_swa=_SCALED,
        problem=_rope_left_out,
        numbers=MappingProxyType({"attention.temperature_scale": ("rope_parameters.llama_4_scaling_beta", 0.1)}),
    ),
    decilm=_SCALED,
    vllm=VllmLayers("lbdsl.vllm.ministral3"),
)
