"""Qwen 3.5, the language model: gated delta nets, and in every fourth layer attention with a gate behind it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lbdsl.core.diagnostic import fail
from lbdsl.families.base import Family, Sizes, dense_layers
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, computes_silu
from lbdsl.families.rows import ALL, POST_ATTENTION_NORM, QK_HEAD_NORMS, gated_mlp, projections
from lbdsl.families.windows import positive_int
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import TensorRow
from lbdsl.parts.gated_delta_net import GatedDeltaNet

DELTA_NETS = Lacks("gated delta nets")
GATED = tuple(
    TensorRow(row.name, row.gguf, ("query_gate", *row.dims[1:]), when=row.when) if ".q_proj." in row.name else row
    for row in projections(biased=ALL, when="attention_bias")
)
DELTA_NET = (
    TensorRow("linear_attn.in_proj_qkv.weight", "attn_qkv.weight", ("mixed", "hidden")),
    TensorRow("linear_attn.in_proj_z.weight", "attn_gate.weight", ("values", "hidden")),
    TensorRow("linear_attn.in_proj_b.weight", "ssm_beta.weight", ("value_heads", "hidden")),
    TensorRow("linear_attn.in_proj_a.weight", "ssm_alpha.weight", ("value_heads", "hidden")),
    TensorRow("linear_attn.conv1d.weight", "ssm_conv1d.weight", ("mixed", "one", "kernel"), plain=True),
    TensorRow("linear_attn.dt_bias", "ssm_dt.bias", ("value_heads",)),
    TensorRow("linear_attn.A_log", "ssm_a", ("value_heads",)),
    TensorRow("linear_attn.norm.weight", "ssm_norm.weight", ("value_dim",)),
    TensorRow("linear_attn.out_proj.weight", "ssm_out.weight", ("hidden", "values")),
)
_SIZES = {
    "key_heads": ("linear_num_key_heads", 16),
    "value_heads": ("linear_num_value_heads", 32),
    "key_dim": ("linear_key_head_dim", 128),
    "value_dim": ("linear_value_head_dim", 128),
    "kernel": ("linear_conv_kernel_dim", 4),
}
KINDS = ("linear_attention", "full_attention")


def hybrid_layers(family: Family, config: Mapping[str, Any], sizes: Sizes) -> tuple[LayerSpec, ...]:
    every = positive_int(config, "full_attention_interval", default=4)
    types = config.get("layer_types") or [KINDS[not (layer + 1) % every] for layer in range(sizes.layers)]
    if not isinstance(types, list) or len(types) != sizes.layers or not set(map(str, types)) <= set(KINDS):
        said = f"layer_types in the configuration must be a list of {' and '.join(KINDS)}, one for each of {sizes.layers}"
        raise fail("LB402", f"{said} layers")
    found = {name: positive_int(config, field, default=usual) for name, (field, usual) in _SIZES.items()}
    if found["value_heads"] % found["key_heads"]:
        said = f"linear_num_value_heads {found['value_heads']} is not a multiple of linear_num_key_heads"
        raise fail("LB402", f"{said} {found['key_heads']}")
    (full, *_) = dense_layers(family, config, sizes)
    delta = full.replace(mixer=GatedDeltaNet.model_validate(found))
    return tuple(full if kind == "full_attention" else delta for kind in types)


FAMILY = Family(
    model_type="qwen3_5_text",
    examples="Qwen3.5 (dense), the text models",
    classes=Classes("qwen3_5", "Qwen3_5", body="Qwen3_5TextModel", config="Qwen3_5TextConfig"),
    inside=("qwen3_5",),
    rows={"attention": (*GATED, *QK_HEAD_NORMS), "gated_delta_net": DELTA_NET, "gated_mlp": gated_mlp()},
    norms=POST_ATTENTION_NORM,
    layers=hybrid_layers,
    tied_by_default=False,
    partial_rotary=True,
    rotary_share=0.25,
    size_defaults=MappingProxyType(
        {"heads": 16, "kv_heads": 4, "head_dim": 256, "intermediate": 12_288, "vocab": 248_320, "positions": 32_768}
    ),
    flags=MappingProxyType({"attention_bias": False}),
    gguf=GgufNames(Graph("qwen35", norm_offset=1.0, delta_nets=True), deci=DELTA_NETS, granite_swa=DELTA_NETS),
    decilm=DELTA_NETS,
    vllm=DELTA_NETS,
    vllm_native=computes_silu,
)
