"""Qwen 3.5 with experts: Qwen 3.5's layers, each with experts in the place of the MLP, and one more for all tokens."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lbdsl.families.base import COMMON_LIMITS, NO_ROUTER_LOGITS, Family, Sizes
from lbdsl.families.engines import Classes, GgufNames, Graph, computes_silu
from lbdsl.families.qwen3_5_text import DELTA_NET, DELTA_NETS, GATED, hybrid_layers
from lbdsl.families.rows import POST_ATTENTION_NORM, QK_HEAD_NORMS, experts
from lbdsl.families.windows import positive_int
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import TensorRow
from lbdsl.parts.moe import Moe

_EXPERTS = (
    *experts(),
    TensorRow("mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", ("shared", "hidden")),
    TensorRow("mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", ("shared", "hidden")),
    TensorRow("mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", ("hidden", "shared")),
    TensorRow("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", ("one", "hidden"), routes=True),
)


def _layers(family: Family, config: Mapping[str, Any], sizes: Sizes) -> tuple[LayerSpec, ...]:
    moe = Moe(
        experts=positive_int(config, "num_experts", default=256),
        top_k=positive_int(config, "num_experts_per_tok", default=8),
        width=positive_int(config, "moe_intermediate_size", default=512),
        shared=positive_int(config, "shared_expert_intermediate_size", default=512),
    )
    return tuple(layer.replace(ffn=moe) for layer in hybrid_layers(family, config, sizes))


FAMILY = Family(
    model_type="qwen3_5_moe_text",
    examples="Qwen3.5-35B-A3B, the text models",
    classes=Classes("qwen3_5_moe", "Qwen3_5Moe", body="Qwen3_5MoeTextModel", config="Qwen3_5MoeTextConfig"),
    inside=("qwen3_5_moe",),
    rows={"attention": (*GATED, *QK_HEAD_NORMS), "gated_delta_net": DELTA_NET, "moe": _EXPERTS},
    norms=POST_ATTENTION_NORM,
    layers=_layers,
    tied_by_default=False,
    partial_rotary=True,
    rotary_share=0.25,
    size_defaults=MappingProxyType(
        {"heads": 16, "kv_heads": 2, "head_dim": 256, "intermediate": 512, "vocab": 248_320, "positions": 32_768}
    ),
    limits=(NO_ROUTER_LOGITS, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
    gguf=GgufNames(Graph("qwen35moe", norm_offset=1.0, delta_nets=True), deci=DELTA_NETS, granite_swa=DELTA_NETS),
    decilm=DELTA_NETS,
    vllm=DELTA_NETS,
    vllm_native=computes_silu,
)
