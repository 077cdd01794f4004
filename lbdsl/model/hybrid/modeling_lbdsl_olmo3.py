"""Olmo 3 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.olmo3.modeling_olmo3 import (
    Olmo3Attention,
    Olmo3ForCausalLM,
    Olmo3MLP,
    Olmo3Model,
    Olmo3RMSNorm,
)

from .configuration_lbdsl_olmo3 import LbdslOlmo3Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslOlmo3DecoderLayer(HybridDecoderLayer):
    attention_class = Olmo3Attention
    mlp_class = Olmo3MLP
    norm_class = Olmo3RMSNorm
    attention_norms = (None, "post_attention_layernorm")
    mlp_norms = (None, "post_feedforward_layernorm")


class LbdslOlmo3Model(HybridModelMixin, Olmo3Model):
    """Olmo3Model with each layer as its specification says."""

    config_class = LbdslOlmo3Config
    layer_class = LbdslOlmo3DecoderLayer
    rope_by_layer_type = True
    _no_split_modules = ["LbdslOlmo3DecoderLayer"]


class LbdslOlmo3ForCausalLM(HybridCausalLMMixin, Olmo3ForCausalLM):
    """Olmo3ForCausalLM on a hybrid body."""

    config_class = LbdslOlmo3Config
    body_class = LbdslOlmo3Model
    _no_split_modules = ["LbdslOlmo3DecoderLayer"]
