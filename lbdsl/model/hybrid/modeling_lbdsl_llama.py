"""Llama models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
)

from .configuration_lbdsl_llama import LbdslLlamaConfig
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslLlamaDecoderLayer(HybridDecoderLayer):
    attention_class = LlamaAttention
    mlp_class = LlamaMLP
    norm_class = LlamaRMSNorm


class LbdslLlamaModel(HybridModelMixin, LlamaModel):
    """LlamaModel with each layer as its specification says."""

    config_class = LbdslLlamaConfig
    layer_class = LbdslLlamaDecoderLayer
    _no_split_modules = ["LbdslLlamaDecoderLayer"]


class LbdslLlamaForCausalLM(HybridCausalLMMixin, LlamaForCausalLM):
    """LlamaForCausalLM on a hybrid body."""

    config_class = LbdslLlamaConfig
    body_class = LbdslLlamaModel
    _no_split_modules = ["LbdslLlamaDecoderLayer"]
