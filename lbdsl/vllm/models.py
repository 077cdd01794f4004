"""vLLM's Llama model with the layers of an artifact's `lbdsl.layers`. Imported only by vLLM, in its workers.

The attention and the MLP of each layer are vLLM's own classes of the family; only the decoder layer is lbdsl's: it may have
no attention or no MLP, also in layer 0, and has its own KV heads, window and MLP width.
"""

from __future__ import annotations

import copy
import importlib

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.model_loader.weight_utils import sharded_weight_loader
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.utils import extract_layer_index
from vllm.model_executor.utils import set_weight_attrs

from lbdsl.model.hybrid.lbdsl_layers import config_with
from lbdsl.vllm.layers import full_heads_of, has_sink_logits, module_heads, sizes_of, window_of
from lbdsl.vllm.served import layers_of, served


class LbdslDecoderLayer(nn.Module):
    """A pre-norm layer that may have no attention or no MLP (nor the norm of either).

    As in vLLM's own layers, the residual stream is passed in two parts that the next norm adds: the last sub-block's
    output, and the stream before it, which is None until a sub-block has run.
    """

    def __init__(self, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config, quant_config = vllm_config.model_config.hf_config, vllm_config.quant_config
        specs = config.lbdsl["layers"]
        spec = specs[extract_layer_index(prefix)]
        own = config_for(config, spec)
        parts = importlib.import_module(layers_of(config.lbdsl["base_model_type"]).module)
        self.self_attn = self.input_layernorm = self.mlp = self.post_attention_layernorm = None
        if spec["mixer"] is not None:
            cache_config = cache_for(vllm_config.cache_config, window_of(spec["mixer"], prefix))
            self.self_attn = parts.attention(own, cache_config, quant_config, f"{prefix}.self_attn")
            if has_sink_logits(spec["mixer"]) or full_heads_of(spec["mixer"]):
                remake(self.self_attn, vllm_config, cache_config, f"{prefix}.self_attn", specs)
            self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if spec["ffn"] is not None:
            make = parts.moe if spec["ffn"]["kind"] == "moe" else parts.mlp
            self.mlp = make(own, quant_config, f"{prefix}.mlp")
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
    """A copy of the cache settings with this layer's window as the model-wide window, which every attention class of vLLM
    uses by default."""
    cache_config = copy.copy(cache_config)
    cache_config.sliding_window = window
    return cache_config


class SplitHeads(nn.Module):
    """Attentions of vLLM in place of one, each of some KV heads in order, over all tokens or within the window. Each has a
    cache of its own, so vLLM frees what the window has passed."""

    def __init__(self, attentions):
        super().__init__()
        self.attentions = nn.ModuleList(attentions)
        self.queries = [one.num_heads * one.head_size for one in attentions]
        self.keys = [one.num_kv_heads * one.head_size for one in attentions]

    def forward(self, query, key, value):
        split = query.split(self.queries, -1), key.split(self.keys, -1), value.split(self.keys, -1)
        states = ([x.contiguous() for x in of_one] for of_one in zip(*split, strict=True))
        return torch.cat([one(*x) for one, x in zip(self.attentions, states, strict=True)], dim=-1)


def remake(attention, vllm_config, cache_config, prefix, specs):
    """Give an attention module of vLLM learned sinks, one a windowed query head, or full heads: vLLM takes both when its
    attention layer is made, so that is made again. Raises ValueError where the full heads cannot be split over ranks."""
    layer = extract_layer_index(prefix)
    old, mixer = attention.attn, specs[layer]["mixer"]
    ranks = mixer["kv_heads"] // old.num_kv_heads
    full = full_heads_of(mixer)
    if full and ranks > 1:
        raise ValueError(f"{prefix}: full heads beside windowed ones are served by one rank, here by {ranks}")
    each = old.num_heads // old.num_kv_heads
    learned = has_sink_logits(mixer)
    if learned:
        attention.sinks = nn.Parameter(torch.empty(old.num_heads - full * each), requires_grad=False)
        set_weight_attrs(attention.sinks, {"weight_loader": sharded_weight_loader(0)})
    del vllm_config.compilation_config.static_forward_context[f"{prefix}.attn"]

    def made(name, kv_heads, windowed, first):
        heads = kv_heads * each
        return Attention(
            heads,
            old.head_size,
            attention.scaling,
            num_kv_heads=kv_heads,
            cache_config=cache_config if windowed else cache_for(cache_config, None),
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.{name}",
            **({"sinks": attention.sinks[first : first + heads]} if windowed and learned else {}),
        )

    if not full:
        attention.attn = made("attn", old.num_kv_heads, True, 0)
        return
    modules = list(module_heads(spec["mixer"] for spec in specs))[layer]
    attentions, first = [], -full * each
    for number, (windowed, heads) in enumerate(modules):
        attentions.append(made(f"attn.heads{number}", heads, windowed, first))
        first += heads * each
    attention.attn = SplitHeads(attentions)


def config_for(config, spec):
    """The configuration with the layer's own sizes, and without `layer_types`, which would override the window."""
    return config_with(config, {**sizes_of(spec, config), "layer_types": None})


class LbdslForCausalLM(LlamaForCausalLM):
    """An artifact's model: vLLM's Llama with lbdsl's decoder layers. Raises ValueError if no layer has attention."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        specs = vllm_config.model_config.hf_config.lbdsl["layers"]
        if all(spec["mixer"] is None for spec in specs):
            raise ValueError("every attention of this model is gone; vLLM serves no such model")
        cache_config = vllm_config.cache_config
        if cache_config.cache_dtype == "auto" and any((spec["mixer"] or {}).get("cache") for spec in specs):
            if getattr(vllm_config.quant_config, "kv_cache_scheme", None) is None:
                raise ValueError(
                    "its cache is of 8-bit floats: serve what `lbdsl export --to vllm` writes, or say so with "
                    "--kv-cache-dtype fp8, in part with --kv-cache-dtype-skip-layers"
                )
            # As vLLM's attention does; windowed layers have copies of these settings.
            cache_config.cache_dtype = "fp8"
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=LbdslDecoderLayer)


FUSED = {"qkv_proj": ["qkv_proj"], "gate_up_proj": ["gate_up_proj"]}


def _model(family: str, name: str):
    """The class of an architecture. If checkpoints are already fused as in vLLM, weights are not fused when loading."""
    fields = {"packed_modules_mapping": FUSED} if layers_of(family).fused else {}
    return type(name, (LbdslForCausalLM,), {"__module__": __name__, **fields})


globals().update({name: _model(family, name) for family, name in served().items()})
