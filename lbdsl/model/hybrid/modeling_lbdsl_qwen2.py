"""Qwen 2 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2ForCausalLM,
    Qwen2MLP,
    Qwen2Model,
    Qwen2RMSNorm,
)

from .configuration_lbdsl_qwen2 import LbdslQwen2Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslQwen2DecoderLayer(HybridDecoderLayer):
    attention_class = Qwen2Attention
    mlp_class = Qwen2MLP
    norm_class = Qwen2RMSNorm


class LbdslQwen2Model(HybridModelMixin, Qwen2Model):
    """Qwen2Model with each layer as its specification says."""

    config_class = LbdslQwen2Config
    layer_class = LbdslQwen2DecoderLayer
    _no_split_modules = ["LbdslQwen2DecoderLayer"]


class LbdslQwen2ForCausalLM(HybridCausalLMMixin, Qwen2ForCausalLM):
    """Qwen2ForCausalLM on a hybrid body."""

    config_class = LbdslQwen2Config
    body_class = LbdslQwen2Model
    _no_split_modules = ["LbdslQwen2DecoderLayer"]
