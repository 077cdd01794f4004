"""Qwen 3: norms of queries and keys for each head; windows as in Qwen 2."""

from types import MappingProxyType

from lbdsl.families.base import Family
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers
from lbdsl.families.qwen2 import later_layers
from lbdsl.families.rows import ALL, QK_HEAD_NORMS, gated_mlp, projections
from lbdsl.families.windows import WindowsByType

_QK_NORMS = Lacks("the norms of queries and keys")

FAMILY = Family(
    model_type="qwen3",
    examples="Qwen3 (dense)",
    classes=Classes("qwen3", "Qwen3"),
    rows={"attention": (*projections(biased=ALL, when="attention_bias"), *QK_HEAD_NORMS), "gated_mlp": gated_mlp()},
    tied_by_default=False,
    windows=WindowsByType(4096, later_layers, switch="use_sliding_window"),
    size_defaults=MappingProxyType({"kv_heads": 32, "head_dim": 128}),
    flags=MappingProxyType({"attention_bias": False}),
    gguf=GgufNames(Graph("qwen3"), deci=_QK_NORMS, granite_swa=_QK_NORMS),
    decilm=_QK_NORMS,
    # The bias of the output is left out there without a word.
    vllm=VllmLayers("lbdsl.vllm.qwen3", without=("attention_bias",)),
)
