"""SmolLM3 models whose layers differ: full attention, a sliding window, none; with an MLP or without."""

from transformers.models.smollm3.modeling_smollm3 import (
    SmolLM3Attention,
    SmolLM3ForCausalLM,
    SmolLM3MLP,
    SmolLM3Model,
    SmolLM3RMSNorm,
)

from .configuration_lbdsl_smollm3 import LbdslSmolLM3Config
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslSmolLM3DecoderLayer(HybridDecoderLayer):
    attention_class = SmolLM3Attention
    mlp_class = SmolLM3MLP
    norm_class = SmolLM3RMSNorm


class LbdslSmolLM3Model(HybridModelMixin, SmolLM3Model):
    """SmolLM3Model with each layer as its specification says."""

    config_class = LbdslSmolLM3Config
    layer_class = LbdslSmolLM3DecoderLayer
    _no_split_modules = ["LbdslSmolLM3DecoderLayer"]


class LbdslSmolLM3ForCausalLM(HybridCausalLMMixin, SmolLM3ForCausalLM):
    """SmolLM3ForCausalLM on a hybrid body."""

    config_class = LbdslSmolLM3Config
    body_class = LbdslSmolLM3Model
    _no_split_modules = ["LbdslSmolLM3DecoderLayer"]
