"""Softmax attention, over all previous tokens or over a window; and the interface of a part's runtime file.

A part's file is named `lbdsl_part_<kind>.py` and defines one object, `PART`, with `FIELDS`, the names of the fields that it
supports, and, depending on the part's slot in a layer:

    mixer    build(cls, config, layer_idx, part) -> nn.Module               called like the family's attention
             CLASS, NAME                                                    optional: the attribute of the family's layer
                                                                            class that has `cls`, and the layer's
                                                                            module; without them `attention_class` and
                                                                            `self_attn`
             make_cache(config, layer_idx, part, reserved) -> cache layer   see lbdsl_cache.HybridCacheLayer; `reserved` is
                                                                            the length of a static cache, else None
             make_mask(context, part) -> the attention's `attention_mask`, once per forward; see
                                                                            lbdsl_masks.MaskContext
             MASK_FIELDS                                                    the fields that masks depend on
             watch() -> context manager                                     optional: by layer, the sum and the count of
                                                                            the shares of outputs that come from a state
    ffn      build(cls, config, part) -> nn.Module                          called like the family's MLP
             CLASS                                                          the attribute of the family's layer class
                                                                            that has `cls`; without it `mlp_class`
    weights  wrap(linear, part) -> nn.Module                                replaces `linear` and computes the same; its
                                                                            parameters have the names and shapes of
                                                                            those of `linear`

`part` is the part's entry in the layer's specification: a mapping with `kind` and the fields.
"""

import torch
from torch import nn
from transformers.cache_utils import DynamicLayer, StaticLayer

from .lbdsl_fp8_cache import fp8_attention, in_floats
from .lbdsl_full_attention import make_full_mask
from .lbdsl_full_heads import FullHeadsLayer, full_heads_attention, make_masks
from .lbdsl_layers import check_fields, config_with
from .lbdsl_redirect import attend, redirect
from .lbdsl_window_attention import RingLayer, make_window_mask, window_attention


class AttentionPart:
    """The family's attention; a window narrows its mask and makes its cache a ring buffer."""

    FIELDS = ("heads", "kv_heads", "head_dim", "window", "cache")
    MASK_FIELDS = ("window",)

    def build(self, attention_class, config, layer_idx, part):
        sizes = {
            "num_attention_heads": part["heads"],
            "num_key_value_heads": part["kv_heads"],
            "head_dim": part["head_dim"],
        }
        module = attention_class(config=config_with(config, sizes), layer_idx=layer_idx)
        # The model's own configuration, so that a later change (the attention implementation) reaches it.
        module.config = config
        # Its own attention function adds them.
        module.own_sinks = hasattr(module, "sinks")
        function = attend if _window(part) is None else self._windowed(module, part)
        if not _in_fp8(part):
            return redirect(module, function)
        module.over_floats = function
        return redirect(module, fp8_attention)

    def _windowed(self, module, part):
        full = _full_heads(part)
        if part["window"].get("sink_logits"):
            module.sinks = nn.Parameter(torch.zeros(part["heads"] - full * part["heads"] // part["kv_heads"]))
        module.full_heads = full
        return full_heads_attention if full else window_attention

    def make_cache(self, config, layer_idx, part, reserved):
        window, stored = _window(part), in_floats if _in_fp8(part) else lambda layer: layer
        if window is not None:
            full = _full_heads(part)
            return stored(FullHeadsLayer)(*window, full) if full else stored(RingLayer)(*window)
        return stored(DynamicLayer)() if reserved is None else stored(StaticLayer)(max_cache_len=reserved)

    def make_mask(self, context, part):
        window = _window(part)
        if window is None:
            return make_full_mask(context)
        return make_masks(context, *window) if _full_heads(part) else make_window_mask(context, *window)


def _window(part):
    """(tokens, sink tokens) of the window, or None. Raises ValueError."""
    window = part["window"]
    if window is None:
        return None
    optional = {"sink_logits": False, "full_heads": 0}
    check_fields({**optional, **window}, ("size", "sink_tokens", *optional), "a window")
    size, sinks = window["size"], window["sink_tokens"]
    if type(size) is not int or type(sinks) is not int or size < 1 or sinks < 0:
        raise ValueError(f"a window has a size of at least 1 and sink_tokens of at least 0, both integers: {window}")
    return size, sinks


def _in_fp8(part):
    """Whether keys and values are kept as 8-bit floats. Raises ValueError."""
    form = part.get("cache")
    if form not in (None, "fp8"):
        raise ValueError(f"the cache of attention is {form!r}; known here: null, 'fp8'")
    return form == "fp8"


def _full_heads(part):
    """How many KV heads see all tokens. Raises ValueError."""
    full = part["window"].get("full_heads", 0)
    if type(full) is not int or not 0 <= full < part["kv_heads"]:
        raise ValueError(f"{full!r} of {part['kv_heads']} KV heads are full: at least one has the window")
    return full


PART = AttentionPart()
