"""vLLM's Llama model with layers as an artifact's `lbdsl.layers` says. Imported by vLLM alone, in its workers.

The attention and the MLP of each layer are vLLM's own classes of the family; only the layer around them is ours: it may
lack either, also in layer 0, and gives each attention its own window.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaAttention, LlamaForCausalLM, LlamaMLP
from vllm.model_executor.models.mistral import MistralAttention
from vllm.model_executor.models.qwen2 import Qwen2Attention, Qwen2MLP
from vllm.model_executor.models.qwen3 import Qwen3Attention
from vllm.model_executor.models.utils import extract_layer_index

from lbdsl.vllm.layers import window_of


def _llama_parts(attention):
    """Attention and MLP of families whose attention is built as Llama's."""

    def make_attention(config, cache_config, quant_config, prefix):
        bias = bool(getattr(config, "attention_bias", False))
        return attention(
            config=config,
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            quant_config=quant_config,
            bias=bias,
            bias_o_proj=bias,
            cache_config=cache_config,
            prefix=prefix,
        )

    def make_mlp(config, quant_config, prefix):
        return LlamaMLP(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            hidden_act=config.hidden_act,
            quant_config=quant_config,
            bias=bool(getattr(config, "mlp_bias", False)),
            prefix=prefix,
        )

    return make_attention, make_mlp


def _qwen_mlp(config, quant_config, prefix):
    return Qwen2MLP(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        quant_config=quant_config,
        prefix=prefix,
    )


def _qwen2_attention(config, cache_config, quant_config, prefix):
    return Qwen2Attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position=config.max_position_embeddings,
        rope_parameters=config.rope_parameters,
        cache_config=cache_config,
        quant_config=quant_config,
        prefix=prefix,
    )


def _qwen3_attention(config, cache_config, quant_config, prefix):
    return Qwen3Attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position=config.max_position_embeddings,
        rope_parameters=config.rope_parameters,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        qkv_bias=bool(getattr(config, "attention_bias", False)),
        cache_config=cache_config,
        quant_config=quant_config,
        prefix=prefix,
    )


class _NoRotary(nn.Module):
    """In place of rotary embeddings: queries and keys as they are."""

    def forward(self, positions, query, key):
        return query, key


def _smollm3_attention(config, cache_config, quant_config, prefix):
    attention = _llama_parts(LlamaAttention)[0](config, cache_config, quant_config, prefix)
    if not config.no_rope_layers[extract_layer_index(prefix)]:
        attention.rotary_emb = _NoRotary()
    return attention


PARTS = {
    "llama": _llama_parts(LlamaAttention),
    "mistral": _llama_parts(MistralAttention),
    "phi3": _llama_parts(LlamaAttention),
    "qwen2": (_qwen2_attention, _qwen_mlp),
    "qwen3": (_qwen3_attention, _qwen_mlp),
    "smollm3": (_smollm3_attention, _llama_parts(LlamaAttention)[1]),
}
"""How a family's attention and MLP are made, by the base's `model_type`."""


class LbdslDecoderLayer(nn.Module):
    """A pre-norm layer that may lack its attention or its MLP, each with its norm.

    As in vLLM's own layers the residual stream comes in two parts that the next norm adds: what the last sub-block gave,
    and the stream before it, which is None as long as no sub-block has run.
    """

    def __init__(self, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config, quant_config = vllm_config.model_config.hf_config, vllm_config.quant_config
        spec = config.lbdsl["layers"][extract_layer_index(prefix)]
        make_attention, make_mlp = PARTS[config.lbdsl["base_model_type"]]
        self.self_attn = self.input_layernorm = self.mlp = self.post_attention_layernorm = None
        mixer, ffn = spec["mixer"], spec["ffn"]
        if mixer is not None:
            window = window_of(mixer, prefix)
            self.self_attn = make_attention(
                config_for(config), cache_for(vllm_config.cache_config, window), quant_config, f"{prefix}.self_attn"
            )
            self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if ffn is not None:
            self.mlp = make_mlp(config, quant_config, f"{prefix}.mlp")
            self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None):
        if self.self_attn is not None:
            hidden_states, residual = _normed(self.input_layernorm, hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        if self.mlp is not None:
            hidden_states, residual = _normed(self.post_attention_layernorm, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


def _normed(norm, hidden_states, residual):
    if residual is None:
        return norm(hidden_states), hidden_states
    return norm(hidden_states, residual)


def cache_for(cache_config, window):
    """A view of the cache's settings in which the model-wide window is this layer's: what every attention class of vLLM
    reads when it is given no other."""
    cache_config = copy.copy(cache_config)
    cache_config.sliding_window = window
    return cache_config


def config_for(config):
    """The configuration without `layer_types`, which would name another window."""
    config = copy.copy(config)
    config.layer_types = None
    return config


class LbdslForCausalLM(LlamaForCausalLM):
    """An artifact's model: vLLM's Llama around our layers. ValueError for a plan that vLLM cannot run."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        specs = vllm_config.model_config.hf_config.lbdsl["layers"]
        if all(spec["mixer"] is None for spec in specs):
            raise ValueError("every attention of this model is gone; vLLM serves no such model")
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=LbdslDecoderLayer)


class LbdslLlamaForCausalLM(LbdslForCausalLM):
    """Architecture of artifacts of Llama models."""


class LbdslMistralForCausalLM(LbdslForCausalLM):
    """Architecture of artifacts of Mistral models."""


class LbdslPhi3ForCausalLM(LbdslForCausalLM):
    """Architecture of artifacts of Phi-3 models, whose weights are stored as vLLM holds them: fused."""

    packed_modules_mapping = {"qkv_proj": ["qkv_proj"], "gate_up_proj": ["gate_up_proj"]}


class LbdslQwen2ForCausalLM(LbdslForCausalLM):
    """Architecture of artifacts of Qwen2 models."""


class LbdslQwen3ForCausalLM(LbdslForCausalLM):
    """Architecture of artifacts of Qwen3 models."""


class LbdslSmolLM3ForCausalLM(LbdslForCausalLM):
    """Architecture of artifacts of SmolLM3 models, some of whose layers have no rotary embeddings."""
