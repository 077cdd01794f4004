"""Windowed attention on a GPU by lbdsl's kernels, where it is installed and they are faster than PyTorch's attention."""

from functools import cache

import torch


@cache
def kernels_for(kind):
    """The module `lbdsl.kernels.choice` for a kind of device, or None."""
    if kind != "cuda":
        return None
    try:
        from lbdsl.kernels import choice
    except ImportError:
        return None
    return choice


def windows_pay(context, window, sinks):
    """Whether the kernel computes windows over the context's tokens."""
    kernels = kernels_for(context.device.type)
    if kernels is None:
        return False
    config, embeds = context.config, context.inputs_embeds
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shape = len(embeds), heads, config.num_key_value_heads, size, context.queries
    inputs = kernels.Inputs(context.device, _dtype(embeds), *shape, backward=torch.is_grad_enabled())
    return kernels.windows_pay(inputs, window, sinks)


def attend_by_kernel(query_BHND, key_BGND, value_BGND, band, scaling, sinks_H=None):
    """The output [B, N, H, D]; `sinks_H` are learned sinks."""
    kernels = kernels_for(query_BHND.device.type)
    states = (states.to(_dtype(value_BGND)) for states in (query_BHND, key_BGND, value_BGND))
    return kernels.window_attention(*states, band.window, band.sinks, sinks_H, scaling).transpose(1, 2)


def single_tokens_pay(config, query_BHQD, key_BGKD, softcap=None, position_bias=None, **kwargs):
    """Whether the kernel computes attention of one token a row over all keys."""
    kernels = kernels_for(query_BHQD.device.type)
    batch, heads, queries, size = query_BHQD.shape
    if kernels is None or queries > 1 or config._attn_implementation != "sdpa" or torch.is_grad_enabled():
        return False
    if softcap is not None or position_bias is not None:
        return False
    groups, tokens = key_BGKD.shape[1:3]
    inputs = kernels.Inputs(key_BGKD.device, _dtype(key_BGKD), batch, heads, groups, size, tokens)
    return kernels.single_tokens_pay(inputs)


def attend_single_tokens(query_BH1D, key_BGKD, value_BGKD, scaling, sinks_H):
    """The output [B, 1, H, D]."""
    kernels = kernels_for(query_BH1D.device.type)
    states = (states.to(_dtype(value_BGKD)) for states in (query_BH1D, key_BGKD, value_BGKD))
    return kernels.decode_attention(*states, sinks_H, scaling).transpose(1, 2)


def _dtype(states):
    """What attention computes in: autocast does not see the kernels."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
