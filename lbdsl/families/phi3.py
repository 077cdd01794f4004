"""Phi-3: one projection for queries, keys and values, one for gate and up; one window for all layers or none."""

from lbdsl.families.base import COMMON_LIMITS, Family, Only
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, VllmLayers
from lbdsl.families.rows import QKV
from lbdsl.families.windows import OneWindow
from lbdsl.parts import TensorRow

_NO_DROPOUT = "healing would drop residuals that measuring did not"

FAMILY = Family(
    model_type="phi3",
    examples="Phi-3 mini and medium at 4k",
    classes=Classes("phi3", "Phi3"),
    rows={
        "attention": (
            TensorRow(f"{QKV}.weight", "attn_qkv.weight", ("qkv", "hidden")),
            TensorRow("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "query")),
        ),
        "gated_mlp": (
            TensorRow("mlp.gate_up_proj.weight", "ffn_up.weight", ("gate_up", "hidden")),
            TensorRow("mlp.down_proj.weight", "ffn_down.weight", ("hidden", "intermediate")),
        ),
    },
    tied_by_default=False,
    windows=OneWindow(None),
    limits=(
        Only("resid_pdrop", (None, 0, 0.0), _NO_DROPOUT),
        Only("layer_types", (None,), "Phi-3's attention ignores it while its cache obeys it"),
        *COMMON_LIMITS,
    ),
    rope_types=("default",),
    partial_rotary=True,
    epsilon=1e-5,
    gguf=GgufNames(Graph("phi3", square=True, fused=True)),
    decilm=Lacks("fused projections and their scaled rotary embeddings"),
    vllm=VllmLayers("lbdsl.vllm.llama", fused=True),
)
