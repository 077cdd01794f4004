"""Olmo 3: norms after each sub-block and over all queries and keys; three of four layers are windowed, with their own
rotary embeddings."""

from collections.abc import Mapping
from types import MappingProxyType

from lbdsl.families.base import Family, Norm, Norms
from lbdsl.families.engines import Classes, GgufNames, Graph, Lacks, computes_silu
from lbdsl.families.rows import ALL, QK_NORMS, gated_mlp, projections
from lbdsl.families.windows import WindowsByType
from lbdsl.parts import Slot

POST_NORMS: Mapping[Slot, Norms] = MappingProxyType(
    {
        Slot.MIXER: (None, Norm("post_attention_layernorm", "post_attention_norm")),
        Slot.FFN: (None, Norm("post_feedforward_layernorm", "post_ffw_norm")),
    }
)
_NORMS = Lacks("norms after each sub-block")

FAMILY = Family(
    model_type="olmo3",
    examples="Olmo 3 7B and 32B",
    classes=Classes("olmo3", "Olmo3"),
    rows={"attention": (*projections(biased=ALL, when="attention_bias"), *QK_NORMS), "gated_mlp": gated_mlp()},
    norms=POST_NORMS,
    tied_by_default=False,
    windows=WindowsByType(4096, lambda layer, config: (layer + 1) % 4 != 0),
    rope_by_layer_type=True,
    rope_theta=500_000.0,
    flags=MappingProxyType({"attention_bias": False}),
    epsilon=1e-5,
    gguf=GgufNames(
        Graph("olmo2", windows=True, square=True, head_always=True),
        deci=_NORMS,
        granite_swa=_NORMS,
    ),
    decilm=Lacks("norms after each sub-block instead of before"),
    vllm=Lacks("norms after each sub-block and over all heads at once"),
    vllm_native=computes_silu,
)
