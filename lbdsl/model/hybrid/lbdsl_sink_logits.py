"""Attention with learned sinks: one number s for each query head, whose exp(s) is added to the softmax's denominator.

It is computed with the implementation that the model uses (sdpa, eager): keys get one more column, of a key that only the
sink's element of the query sees, with a value of 0.

Source: gpt-oss (arXiv 2508.10925); `granite_swa` in transformers has the same parameter.
"""

import sys
from functools import cache

import torch
from torch import nn
from torch.nn.functional import pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

REDIRECTED = "lbdsl_redirected"
_ELEMENTS = 8
"""Elements added to each head, so that its size stays a multiple of 8; the first is the sink's."""


class Redirected:
    """A configuration for one attention module: `function(module, config, query, key, value, mask, **kwargs)` is called in
    place of the attention implementation; `config` is the configuration without this."""

    _attn_implementation = REDIRECTED

    def __init__(self, config, function):
        self.config = config
        self.function = function

    def __getattr__(self, name):
        if "config" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.config, name)


def attend(module, config, *args, **kwargs):
    """Attention by the implementation that `config` names."""
    # By name: another artifact's copy of this file may have made it.
    if config._attn_implementation == REDIRECTED:
        return config.function(module, config.config, *args, **kwargs)
    eager = next(
        found
        for cls in type(module).__mro__
        if (found := getattr(sys.modules[cls.__module__], "eager_attention_forward", None)) is not None
    )
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)(module, *args, **kwargs)


def _redirected(module, *args, **kwargs):
    return attend(module, module.config, *args, **kwargs)


AttentionInterface.register(REDIRECTED, _redirected)


class _WithSinks:
    """Mixin for an attention module with the parameter `sinks`, [heads]."""

    @property
    def config(self):
        return Redirected(self.__dict__["own_config"], attend_with_sinks)

    @config.setter
    def config(self, config):
        self.__dict__["own_config"] = config


@cache
def _with_sinks(cls):
    """The attention class with sinks; an attribute of this module, so that it can be pickled."""
    name = f"{cls.__name__}WithSinks"
    globals()[name] = type(name, (_WithSinks, cls), {"__module__": __name__})
    return globals()[name]


def add_sinks(attention, heads):
    """The family's attention module with learned sinks, which start at 0."""
    config = attention.__dict__.pop("config")
    attention.__class__ = _with_sinks(type(attention))
    attention.config = config
    attention.sinks = nn.Parameter(torch.zeros(heads))
    return attention


def attend_with_sinks(module, config, query_BHQD, key_BGKD, value_BGKD, attention_mask, scaling=None, **kwargs):
    """As an attention implementation of transformers: the output is [B, Q, H, D], without weights."""
    size, (_, heads, queries, _) = query_BHQD.shape[-1], query_BHQD.shape
    keys = key_BGKD.shape[2]
    scaling = size**-0.5 if scaling is None else scaling
    # A sink that has no effect may be too small for float16.
    logits_H = (module.sinks.float() / scaling).clamp(min=torch.finfo(query_BHQD.dtype).min).to(query_BHQD.dtype)
    sink_BHQ1 = logits_H.view(1, heads, 1, 1).expand(query_BHQD.shape[0], heads, queries, 1)
    query = torch.cat([query_BHQD, sink_BHQ1], dim=-1)
    query = pad(query, (0, _ELEMENTS - 1))
    sink_key = torch.zeros_like(pad(key_BGKD[:, :, :1], (0, _ELEMENTS)))
    sink_key[..., size] = 1
    key = torch.cat([pad(key_BGKD, (0, _ELEMENTS)), sink_key], dim=2)
    value = pad(value_BGKD, (0, _ELEMENTS, 0, 1))
    if attention_mask is None and queries > 1:
        attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[None, None]
        if config._attn_implementation != "sdpa":
            attention_mask = torch.where(attention_mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
    if attention_mask is not None:
        attention_mask = pad(attention_mask, (0, 1), value=True if attention_mask.dtype == torch.bool else 0.0)
    output, _ = attend(module, config, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return output[..., :size], None
