"""gpt-oss: experts with biases, learned sinks in every layer, and windows in every second one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lbdsl.families.base import COMMON_LIMITS, NO_ROUTER_LOGITS, ExpertLayers, Family
from lbdsl.families.engines import ATTENTION_BIASES, Classes, GgufNames, Graph, Lacks
from lbdsl.families.rows import ALL, POST_ATTENTION_NORM, projections
from lbdsl.families.windows import WindowsByType
from lbdsl.parts import TensorRow

_EXPERTS = Lacks("experts with biases")
_SWIGLU = {"swiglu_limit": 7.0, "swiglu_alpha": 1.702}
"""Of the experts, in llama.cpp."""


def _by_turns(config: Mapping[str, Any]) -> bool:
    """vLLM's class has windows in every second layer from the first on, whatever the configuration says, and YaRN."""
    turns = [("sliding_attention", "full_attention")[layer % 2] for layer in range(len(config["layer_types"]))]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return config["layer_types"] == turns and rope.get("rope_type") == "yarn"


def _problem(config: Mapping[str, Any]) -> str | None:
    if not config.get("attention_bias", True):
        return "attention without biases"
    other = ((name, config.get(name, has), has) for name, has in _SWIGLU.items())
    return next((f"a {name} of {given}; it has {has}" for name, given, has in other if given != has), None)


FAMILY = Family(
    model_type="gpt_oss",
    examples="gpt-oss-20b and 120b",
    classes=Classes("gpt_oss", "GptOss", moe="GptOssMLP"),
    rows={
        "attention": (
            *projections(biased=ALL, when="attention_bias"),
            TensorRow("self_attn.sinks", "attn_sinks.weight", ("heads",)),
        ),
        "moe": (
            TensorRow("mlp.router.weight", "ffn_gate_inp.weight", ("experts", "hidden"), routes=True),
            TensorRow("mlp.router.bias", "ffn_gate_inp.bias", ("experts",)),
            # Columns of gate and up stand by turns.
            TensorRow("mlp.experts.gate_up_proj", "", ("experts", "hidden", "gate_up"), plain=True),
            TensorRow("mlp.experts.gate_up_proj_bias", "", ("experts", "gate_up"), plain=True),
            TensorRow("mlp.experts.down_proj", "ffn_down_exps.weight", ("experts", "intermediate", "hidden"), plain=True),
            TensorRow("mlp.experts.down_proj_bias", "ffn_down_exps.bias", ("experts", "hidden"), plain=True),
        ),
    },
    norms=POST_ATTENTION_NORM,
    layers=ExpertLayers(experts=128, top_k=4),
    tied_by_default=False,
    windows=WindowsByType(128, lambda layer, config: layer % 2 == 0),
    size_defaults=MappingProxyType(
        {"heads": 64, "kv_heads": 8, "head_dim": 64, "intermediate": 2880, "vocab": 201_088, "positions": 131_072}
    ),
    limits=(NO_ROUTER_LOGITS, *COMMON_LIMITS),
    flags=MappingProxyType({"attention_bias": True}),
    epsilon=1e-5,
    rope_theta=150_000.0,
    gguf=GgufNames(
        Graph("gpt-oss", windows=True, always_windowed=True, rounds_yarn=True, biases=ATTENTION_BIASES, head_always=True),
        deci=_EXPERTS,
        granite_swa=_EXPERTS,
        problem=_problem,
    ),
    decilm=_EXPERTS,
    vllm=_EXPERTS,
    vllm_native=_by_turns,
    vllm_biases=frozenset({"attention_bias"}),
)
