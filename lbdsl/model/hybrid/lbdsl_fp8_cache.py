"""Keys and values as 8-bit floats (E4M3) in the cache: rounded before any attention reads them, and widened when it does.

Cache layers of any kind hold them as bytes, which every operation of torch moves.
"""

from functools import cache

import torch

from .lbdsl_rounding import rounded, to_e4m3


def fp8_attention(module, config, query_BHQD, keys, values, mask, **kwargs):
    """As an attention implementation of transformers: `module.over_floats` of what the cache gives as bytes, or of states
    that are rounded here; of full heads and others there are pairs."""
    keys, values = (_read(states, query_BHQD.dtype) for states in (keys, values))
    return module.over_floats(module, config, query_BHQD, keys, values, mask, **kwargs)


def _read(states, dtype):
    if isinstance(states, tuple):
        return tuple(_read(each, dtype) for each in states)
    if states.dtype == torch.uint8:
        return states.view(torch.float8_e4m3fn).to(dtype)
    return rounded(states, lambda states: to_e4m3(states).to(states.dtype))


class _InFloats:
    """Mixin for cache layers that get keys and values, and hold and return bytes."""

    def update(self, key_states, value_states, *args, **kwargs):
        states = (to_e4m3(states).view(torch.uint8) for states in (key_states, value_states))
        return super().update(*states, *args, **kwargs)


@cache
def in_floats(cls):
    """The class of cache layers that holds 8-bit floats."""
    return type(f"Fp8{cls.__name__}", (_InFloats, cls), {"__module__": __name__})
