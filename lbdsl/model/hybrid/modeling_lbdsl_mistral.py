"""Mistral models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralForCausalLM,
    MistralMLP,
    MistralModel,
    MistralRMSNorm,
)

from .configuration_lbdsl_mistral import LbdslMistralConfig
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslMistralDecoderLayer(HybridDecoderLayer):
    attention_class = MistralAttention
    mlp_class = MistralMLP
    norm_class = MistralRMSNorm


class LbdslMistralModel(HybridModelMixin, MistralModel):
    """MistralModel with each layer as its specification says."""

    config_class = LbdslMistralConfig
    layer_class = LbdslMistralDecoderLayer
    _no_split_modules = ["LbdslMistralDecoderLayer"]


class LbdslMistralForCausalLM(HybridCausalLMMixin, MistralForCausalLM):
    """MistralForCausalLM on a hybrid body."""

    config_class = LbdslMistralConfig
    body_class = LbdslMistralModel
    _no_split_modules = ["LbdslMistralDecoderLayer"]
