"""Attention in which the first KV heads see all tokens, and the others a window.

Both groups are computed as layers of their kind are, and their outputs are put together; the cache holds all keys and
values of the full heads, and a ring of the others.

Source: DuoAttention (arXiv 2410.10819).
"""

import torch

from .lbdsl_redirect import attend
from .lbdsl_window_attention import RingLayer, make_window_mask, window_attention

_ALL = 2**31 - 1
"""A window that is never full."""


def full_heads_attention(module, config, query_BHQD, keys, values, masks, **kwargs):
    """As an attention implementation of transformers: the output is [B, Q, H, D]. `module.full_heads` KV heads are full.
    `keys` and `values` are pairs, of the full heads and the others, where they come from a cache."""
    full = module.full_heads
    keys, values = (both if isinstance(both, tuple) else (both[:, :full], both[:, full:]) for both in (keys, values))
    queries = full * query_BHQD.shape[1] // sum(key.shape[1] for key in keys)
    ways = (attend, query_BHQD[:, :queries]), (window_attention, query_BHQD[:, queries:])
    outputs = [
        way(module, config, query, key, value, mask, **kwargs)[0]
        for (way, query), key, value, mask in zip(ways, keys, values, masks, strict=True)
    ]
    return torch.cat(outputs, dim=2), None


def make_masks(context, window, sinks):
    """The masks of the full heads and of the others."""
    return make_window_mask(context, _ALL, 0), make_window_mask(context, window, sinks)


class FullHeadsLayer(RingLayer):
    """Keys and values of the full heads, [B, heads, seen, D], beside a ring of those of the others."""

    def __init__(self, window, sinks, full_heads):
        super().__init__(window, sinks)
        self.full_heads = full_heads
        self.full_keys = self.full_values = None

    def update(self, key_states, value_states, *args, **kwargs):
        """Store the new tokens; return the keys, then the values, each of the full heads and of the others."""
        n = self.full_heads
        if self.full_keys is None:
            self.full_keys, self.full_values = key_states[:, :n, :0], value_states[:, :n, :0]
        full = (
            torch.cat([self.full_keys, key_states[:, :n]], dim=2),
            torch.cat([self.full_values, value_states[:, :n]], dim=2),
        )
        self.full_keys, self.full_values = full
        keys, values = super().update(key_states[:, n:], value_states[:, n:])
        return (full[0], keys), (full[1], values)

    def tensors(self):
        return [*super().tensors(), *(("full_keys", "full_values") if self.full_keys is not None else ())]

    def reset(self):
        super().reset()
        self.full_keys = self.full_values = None

    def crop(self, amount):
        super().crop(amount)
        if self.full_keys is not None:
            self.full_keys, self.full_values = (
                states[:, :, : self.seen].clone() for states in (self.full_keys, self.full_values)
            )
