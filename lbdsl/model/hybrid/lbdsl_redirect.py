"""A function in place of the attention implementation, for single modules: transformers calls it by the name in the
module's configuration."""

import sys
from functools import cache

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

REDIRECTED = "lbdsl_redirected"


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


def attend(module, config, query_BHQD, key_BGKD, value_BGKD, attention_mask, **kwargs):
    """Attention by the implementation that `config` names, or eager where it has no cap on scores and there is one."""
    args = query_BHQD, key_BGKD, value_BGKD, attention_mask
    # By name: another artifact's copy of this file may have made it.
    if config._attn_implementation == REDIRECTED:
        return config.function(module, config.config, *args, **kwargs)
    if (
        config._attn_implementation == "sdpa"
        and query_BHQD.shape[2] == 1
        and query_BHQD.device.type == "cpu"
        and attention_mask is None
        and kwargs.get("position_bias") is None
        and kwargs.get("softcap") is None
    ):
        return _one_token(*args[:3], kwargs.get("scaling")), None
    eager = next(
        found
        for cls in type(module).__mro__
        if (found := getattr(sys.modules[cls.__module__], "eager_attention_forward", None)) is not None
    )
    if config._attn_implementation == "sdpa" and kwargs.get("softcap") is not None:
        return eager(module, *args[:3], _additive(*args[:2], attention_mask), **kwargs)
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)(module, *args, **kwargs)


def _additive(query_BHQD, key_BGKD, mask):
    """A mask of SDPA as eager attention takes it; without one, SDPA is causal for more than one query."""
    queries, keys = query_BHQD.shape[2], key_BGKD.shape[2]
    if mask is None and queries > 1:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query_BHQD.device).tril(keys - queries)[None, None]
    if mask is None or mask.dtype != torch.bool:
        return mask
    return query_BHQD.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(query_BHQD.dtype).min)


def _one_token(query_BHQD, key_BGKD, value_BGKD, scaling):
    """[B, 1, H, D]: attention of one token a row over all keys. torch's CPU kernel reads keys and values once for each
    query head; here the heads that share them are the rows of one product."""
    B, H, _, D = query_BHQD.shape
    rows_BGRD = query_BHQD.reshape(B, key_BGKD.shape[1], -1, D)
    output_BGRD = torch.nn.functional.scaled_dot_product_attention(rows_BGRD, key_BGKD, value_BGKD, scale=scaling)
    return output_BGRD.reshape(B, 1, H, -1)


def _redirected(module, *args, **kwargs):
    return attend(module, module.config, *args, **kwargs)


AttentionInterface.register(REDIRECTED, _redirected)


@cache
def _redirecting(cls, function):
    """The attention class with `function` as its attention."""

    def get(self):
        return Redirected(self.__dict__["own_config"], function)

    def put(self, config):
        self.__dict__["own_config"] = config

    def reduce(self, protocol):
        # A process that unpickles it may not have made this class yet.
        return _new, (cls, function), self.__dict__

    name = f"{cls.__name__}_{function.__name__}"
    members = {"__module__": __name__, "__reduce_ex__": reduce, "config": property(get, put)}
    return type(name, (cls,), members)


def _new(cls, function):
    """An instance without a state."""
    made = _redirecting(cls, function)
    return made.__new__(made)


def redirect(attention, function):
    """Make `function` the attention of a module; see `Redirected`."""
    config = attention.__dict__.pop("config")
    attention.__class__ = _redirecting(type(attention), function)
    attention.config = config
    return attention
