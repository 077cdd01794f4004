"""Mistral: Llama's layers, with one window for all of them or none."""

from types import MappingProxyType

from lbdsl.families.base import COMMON_LIMITS, Family, Limit, one_window
from lbdsl.families.rows import gated_mlp, projections

FAMILY = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    examples="Mistral 7B, Mistral Nemo",
    attention=projections(),
    mlp=gated_mlp(),
    tied_by_default=False,
    windows=one_window(4096),
    size_defaults=MappingProxyType({"kv_heads": 8}),
    limits=(
        Limit(
            "layer_types",
            (None,),
            "Mistral's attention ignores it while its cache obeys it; such a model is of the Ministral family",
        ),
        *COMMON_LIMITS,
    ),
)
