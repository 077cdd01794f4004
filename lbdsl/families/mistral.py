"""Mistral: Llama's layers, with one window for all of them or none."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, Family, Only
from lbdsl.families.engines import Classes, GgufNames, VllmLayers
from lbdsl.families.llama import GRAPH, MINISTRAL
from lbdsl.families.rows import gated_mlp, projections
from lbdsl.families.windows import OneWindow

FAMILY = Family(
    model_type="mistral",
    examples="Mistral 7B, Mistral Nemo",
    classes=Classes("mistral", "Mistral"),
    inside=("mistral3",),
    rows={"attention": projections(), "gated_mlp": gated_mlp()},
    tied_by_default=False,
    windows=OneWindow(4096),
    size_defaults=MappingProxyType({"kv_heads": 8}),
    limits=(
        Only(
            "layer_types",
            (None,),
            "Mistral's attention ignores it while its cache obeys it; such a model is of the Ministral family",
        ),
        *COMMON_LIMITS,
    ),
    gguf=GgufNames(GRAPH),
    decilm={},
    granite_swa=True,
    vllm=VllmLayers("lbdsl.vllm.mistral"),
    windowed_as=MINISTRAL,
)
