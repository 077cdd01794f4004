"""Qwen 3 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3ForCausalLM,
    Qwen3MLP,
    Qwen3Model,
    Qwen3RMSNorm,
)

from .configuration_lbdsl_qwen3 import LbdslQwen3Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslQwen3DecoderLayer(HybridDecoderLayer):
    attention_class = Qwen3Attention
    mlp_class = Qwen3MLP
    norm_class = Qwen3RMSNorm


class LbdslQwen3Model(HybridModelMixin, Qwen3Model):
    """Qwen3Model with each layer as its specification says."""

    config_class = LbdslQwen3Config
    layer_class = LbdslQwen3DecoderLayer
    _no_split_modules = ["LbdslQwen3DecoderLayer"]


class LbdslQwen3ForCausalLM(HybridCausalLMMixin, Qwen3ForCausalLM):
    """Qwen3ForCausalLM on a hybrid body."""

    config_class = LbdslQwen3Config
    body_class = LbdslQwen3Model
    _no_split_modules = ["LbdslQwen3DecoderLayer"]
