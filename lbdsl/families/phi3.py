"""Phi-3: one projection for queries, keys and values, one for gate and up; one window for all layers or none."""

from lbdsl.families.base import COMMON_LIMITS, Family, Limit, TensorRow, one_window

_NO_DROPOUT = "healing would drop residuals that measuring did not"

FAMILY = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    examples="Phi-3 mini and medium at 4k",
    attention=(
        TensorRow("self_attn.qkv_proj.weight", "", ("qkv", "hidden")),
        TensorRow("self_attn.o_proj.weight", "", ("hidden", "query")),
    ),
    mlp=(
        TensorRow("mlp.gate_up_proj.weight", "", ("gate_up", "hidden")),
        TensorRow("mlp.down_proj.weight", "", ("hidden", "intermediate")),
    ),
    tied_by_default=False,
    windows=one_window(None),
    limits=(
        Limit("resid_pdrop", (None, 0, 0.0), _NO_DROPOUT),
        Limit("layer_types", (None,), "Phi-3's attention ignores it while its cache obeys it"),
        *COMMON_LIMITS,
    ),
    rope_types=("default",),
)
