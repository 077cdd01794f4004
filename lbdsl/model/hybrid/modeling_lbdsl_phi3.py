"""Phi-3 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.phi3.modeling_phi3 import (
    Phi3Attention,
    Phi3ForCausalLM,
    Phi3MLP,
    Phi3Model,
    Phi3RMSNorm,
)

from .configuration_lbdsl_phi3 import LbdslPhi3Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslPhi3DecoderLayer(HybridDecoderLayer):
    attention_class = Phi3Attention
    mlp_class = Phi3MLP
    norm_class = Phi3RMSNorm


class LbdslPhi3Model(HybridModelMixin, Phi3Model):
    """Phi3Model with each layer as its specification says."""

    config_class = LbdslPhi3Config
    layer_class = LbdslPhi3DecoderLayer
    _no_split_modules = ["LbdslPhi3DecoderLayer"]


class LbdslPhi3ForCausalLM(HybridCausalLMMixin, Phi3ForCausalLM):
    """Phi3ForCausalLM on a hybrid body."""

    config_class = LbdslPhi3Config
    body_class = LbdslPhi3Model
    _no_split_modules = ["LbdslPhi3DecoderLayer"]
