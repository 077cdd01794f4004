"""Granite with experts: Granite's attention and multipliers; the softmax of a router is over the experts that it chose."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, NO_ROUTER_LOGITS, ExpertLayers, Family, ignored_windows
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, computes_silu
from lbdsl.families.granite import GGUF_NUMBERS, MULTIPLIERS
from lbdsl.families.rows import ALL, projections
from lbdsl.parts import TensorRow

_EXPERTS = Lacks("experts")
_BLOCK = "block_sparse_moe"

FAMILY = Family(
    model_type="granitemoe",
    examples="Granite 3 1B-A400M and 3B-A800M",
    classes=Classes("granitemoe", "GraniteMoe", moe="GraniteMoeMoE"),
    rows={
        "attention": projections(biased=ALL, when="attention_bias"),
        "moe": (
            TensorRow(
                f"{_BLOCK}.router.weight",
                "ffn_gate_inp.weight",
                ("experts", "hidden"),
                routes=True,
                files=(f"{_BLOCK}.router.layer.weight",),
            ),
            TensorRow(
                f"{_BLOCK}.experts.gate_up_proj",
                "",
                ("experts", "gate_up", "hidden"),
                files=(f"{_BLOCK}.input_linear.weight",),
            ),
            TensorRow(
                f"{_BLOCK}.experts.down_proj",
                "ffn_down_exps.weight",
                ("experts", "hidden", "intermediate"),
                files=(f"{_BLOCK}.output_linear.weight",),
            ),
        ),
    },
    ffn_name=_BLOCK,
    layers=ExpertLayers(experts=8, top_k=2),
    tied_by_default=False,
    limits=(NO_ROUTER_LOGITS, *ignored_windows("Granite"), *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": False}),
    multipliers=MULTIPLIERS,
    gguf=GgufNames(
        Graph("granitemoe", pairs=True, frequency_table=True, multipliers=True),
        deci=_EXPERTS,
        granite_swa=_EXPERTS,
        numbers=GGUF_NUMBERS,
    ),
    decilm=_EXPERTS,
    vllm=Lacks("multipliers"),
    vllm_native=computes_silu,
)
