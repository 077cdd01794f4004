"""Gemma 3 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3Attention,
    Gemma3ForCausalLM,
    Gemma3MLP,
    Gemma3RMSNorm,
    Gemma3TextModel,
)

from .configuration_lbdsl_gemma3_text import LbdslGemma3Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslGemma3DecoderLayer(HybridDecoderLayer):
    attention_class = Gemma3Attention
    mlp_class = Gemma3MLP
    norm_class = Gemma3RMSNorm
    attention_norms = ("input_layernorm", "post_attention_layernorm")
    mlp_norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


class LbdslGemma3Model(HybridModelMixin, Gemma3TextModel):
    """Gemma3TextModel with each layer as its specification says."""

    config_class = LbdslGemma3Config
    layer_class = LbdslGemma3DecoderLayer
    rope_by_layer_type = True
    _no_split_modules = ["LbdslGemma3DecoderLayer"]


class LbdslGemma3ForCausalLM(HybridCausalLMMixin, Gemma3ForCausalLM):
    """Gemma3ForCausalLM on a hybrid body."""

    config_class = LbdslGemma3Config
    body_class = LbdslGemma3Model
    _no_split_modules = ["LbdslGemma3DecoderLayer"]
