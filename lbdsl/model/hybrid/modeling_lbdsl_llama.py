"""Llama models whose layers differ: full attention, a sliding window, none."""

from torch import nn
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from .configuration_lbdsl_llama import LbdslLlamaConfig
from .lbdsl_hybrid import HybridCausalLMMixin, HybridDecoderLayer, HybridModelMixin


class LbdslLlamaDecoderLayer(HybridDecoderLayer):
    attention_class = LlamaAttention
    mlp_class = LlamaMLP
    norm_class = LlamaRMSNorm


class LbdslLlamaModel(HybridModelMixin, LlamaModel):
    """LlamaModel with each layer as its specification says; all full, it is LlamaModel bit for bit."""

    config_class = LbdslLlamaConfig
    layer_class = LbdslLlamaDecoderLayer
    # The masks of windowed layers are made for these two; transformers refuses others by name.
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _no_split_modules = ["LbdslLlamaDecoderLayer"]

    def __init__(self, config):
        # Not LlamaModel's: that would make every layer's weights once for nothing.
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(LbdslLlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class LbdslLlamaForCausalLM(HybridCausalLMMixin, LlamaForCausalLM):
    """LlamaForCausalLM on a hybrid body."""

    config_class = LbdslLlamaConfig
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False
    _no_split_modules = ["LbdslLlamaDecoderLayer"]

    def __init__(self, config):
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LbdslLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
