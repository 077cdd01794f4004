"""Gemma 2 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.gemma2.modeling_gemma2 import (
    Gemma2Attention,
    Gemma2ForCausalLM,
    Gemma2MLP,
    Gemma2Model,
    Gemma2RMSNorm,
)

from .configuration_lbdsl_gemma2 import LbdslGemma2Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslGemma2DecoderLayer(HybridDecoderLayer):
    attention_class = Gemma2Attention
    mlp_class = Gemma2MLP
    norm_class = Gemma2RMSNorm
    attention_norms = ("input_layernorm", "post_attention_layernorm")
    mlp_norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


class LbdslGemma2Model(HybridModelMixin, Gemma2Model):
    """Gemma2Model with each layer as its specification says."""

    config_class = LbdslGemma2Config
    layer_class = LbdslGemma2DecoderLayer
    # SDPA cannot cap attention scores.
    _supports_sdpa = False
    _no_split_modules = ["LbdslGemma2DecoderLayer"]


class LbdslGemma2ForCausalLM(HybridCausalLMMixin, Gemma2ForCausalLM):
    """Gemma2ForCausalLM on a hybrid body."""

    config_class = LbdslGemma2Config
    body_class = LbdslGemma2Model
    # SDPA cannot cap attention scores.
    _supports_sdpa = False
    _no_split_modules = ["LbdslGemma2DecoderLayer"]
