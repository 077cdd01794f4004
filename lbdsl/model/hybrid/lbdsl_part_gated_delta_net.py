"""Gated delta nets: the family's own module, with a cache of its state and of the convolution's last inputs."""

import inspect
from functools import cache, partial

import torch
from transformers.cache_utils import Cache

from .lbdsl_cache import CACHE_NAME, HybridCacheLayer
from .lbdsl_layers import DELTA_NET, config_with


class DeltaNetLayer(HybridCacheLayer):
    """`conv` [B, C, kernel] and `state` [B, Hv, Dk, Dv]. The family's module calls it as it would call the whole cache."""

    is_croppable = False

    def __init__(self):
        super().__init__()
        self.conv = self.state = None

    def lazy_initialization(self, key_states, value_states):
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        raise ValueError("a gated delta net has no keys and values to cache")

    def get_conv_state(self, layer_idx, state_idx=0):
        return self.conv

    def get_recurrent_state(self, layer_idx, state_idx=0):
        return self.state

    def update_conv_state(self, inputs_BCN, layer_idx, conv_kernel_size=None, **kwargs):
        """The inputs with those before them; the last `conv_kernel_size` are kept."""
        self.is_initialized = True
        missing = conv_kernel_size - inputs_BCN.shape[-1]
        if self.conv is not None:
            inputs_BCN = torch.cat([self.conv, inputs_BCN], dim=-1)
        elif missing > 0:
            inputs_BCN = torch.nn.functional.pad(inputs_BCN, (missing, 0))
        # A copy: a view would hold all of them.
        self.conv = inputs_BCN[..., -conv_kernel_size:].clone()
        return inputs_BCN

    def update_recurrent_state(self, state, layer_idx, **kwargs):
        self.state = state
        return state

    def is_recording_past(self, layer_idx):
        return False

    def get_recurrent_states_to_keep(self, layer_idx=None):
        return 0

    def increase_count(self, layer_idx, state_idx=0):
        pass  # `seen` counts.

    def tensors(self):
        return [name for name in ("conv", "state") if getattr(self, name) is not None]

    def reset(self):
        super().reset()
        self.conv = self.state = None

    def check_crop(self, amount):
        removed = self.tokens_to_remove(amount)
        if removed:
            raise ValueError(f"cannot go back {removed} tokens: they are in the state of a gated delta net")

    def crop(self, amount):
        self.check_crop(amount)


class Mask:
    """real_BN: float [B, N], 0 where a new token is padding, or None. segments_BN: the packed sequence of each token, or
    None."""

    def __init__(self, real_BN, segments_BN):
        self.real_BN = real_BN
        self.segments_BN = segments_BN


@cache
def _called_like_attention(cls):
    """The family's class, called as its attention is; packed sequences are computed one by one."""
    names = inspect.signature(cls.forward).parameters
    cache_name = "cache" if "cache" in names else "cache_params"

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        return _forward(self, partial(cls.forward, self), cache_name, hidden_states, attention_mask, kwargs.get(CACHE_NAME))

    def reduce(self, protocol):
        # A process that unpickles it may not have made this class yet.
        return _new, (cls,), self.__dict__

    members = {"__module__": __name__, "__reduce_ex__": reduce, "forward": forward}
    return type(f"{cls.__name__}_called_like_attention", (cls,), members)


def _new(cls):
    made = _called_like_attention(cls)
    return made.__new__(made)


def _forward(module, own, cache_name, hidden_states, mask, cache):
    layer = None if cache is None else cache.layers[module.layer_idx]
    if mask is not None and mask.segments_BN is not None:
        rows = []
        for row, segments in zip(hidden_states, mask.segments_BN.expand(len(hidden_states), -1), strict=True):
            lengths = torch.unique_consecutive(segments, return_counts=True)[1].tolist()
            rows.append(torch.cat([own(part[None])[0] for part in row.split(lengths)]))
        return torch.stack(rows), None
    out = own(hidden_states, **{cache_name: layer}, attention_mask=None if mask is None else mask.real_BN)
    if layer is not None:
        layer.seen += hidden_states.shape[1]
    return out, None


class GatedDeltaNetPart:
    """The family's gated delta net."""

    FIELDS = tuple(DELTA_NET)
    MASK_FIELDS = ()
    CLASS = "delta_net_class"
    NAME = "linear_attn"

    def build(self, delta_net_class, config, layer_idx, part):
        sizes = {field: part[name] for name, field in DELTA_NET.items()}
        module = delta_net_class(config_with(config, sizes), layer_idx)
        module.__class__ = _called_like_attention(delta_net_class)
        return module

    def make_cache(self, config, layer_idx, part, reserved):
        if not hasattr(Cache, "get_conv_state"):
            raise ValueError("a cache of gated delta nets needs a newer transformers: 5.24 has it")
        return DeltaNetLayer()

    def make_mask(self, context, part):
        if context.attention_mask is not None and context.attention_mask.dim() == 4:
            raise ValueError("a 4-D attention_mask does not say which tokens are real; give a 2-D one")
        real_BK = context.real_BK
        real_BN = None if real_BK is None else real_BK[:, -context.queries :].to(context.inputs_embeds.dtype)
        return Mask(real_BN, context.segments_BQ)


PART = GatedDeltaNetPart()
