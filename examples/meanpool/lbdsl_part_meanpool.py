"""Causal mean pooling: the runtime of the part kind `meanpool`. It travels with the weights, so it needs only torch."""

import torch
from torch import nn

from .lbdsl_cache import CACHE_NAME, HybridCacheLayer


class MeanPoolAttention(nn.Module):
    """o_proj(mean of the values so far), [B, N, D] to [B, N, D]; means are made in fp32, padding counts for nothing."""

    def __init__(self, config, layer_idx, part):
        super().__init__()
        self.layer_idx = layer_idx
        self.groups = part["heads"] // part["kv_heads"]
        self.head_dim = part["head_dim"]
        self.v_proj = nn.Linear(config.hidden_size, part["kv_heads"] * self.head_dim, bias=False)
        self.o_proj = nn.Linear(part["heads"] * self.head_dim, config.hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        """`attention_mask` is what make_mask gave: the weight of each new token and the count of real tokens up to it,
        both [B or 1, N, 1]."""
        weight, count = attention_mask
        values = self.v_proj(hidden_states)
        sums = (values.float() * weight).cumsum(dim=1)
        cache = kwargs.get(CACHE_NAME)
        if cache is not None:
            sums = cache.layers[self.layer_idx].add(sums)
        mean = (sums / count).to(values.dtype)
        heads = mean.unflatten(-1, (-1, self.head_dim)).repeat_interleave(self.groups, dim=-2)
        return self.o_proj(heads.flatten(-2)), None


class SumLayer(HybridCacheLayer):
    """The running sum of the values, fp32 [B, Hkv * D]."""

    is_croppable = False

    def __init__(self):
        super().__init__()
        self.total = None

    def lazy_initialization(self, key_states, value_states):
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        raise ValueError("mean pooling keeps a sum, not keys and values")

    def add(self, sums_BNC):
        """Sums within the new tokens, made sums from the first token on; the last one is kept."""
        if self.total is not None:
            sums_BNC = sums_BNC + self.total.unsqueeze(1)
        self.total = sums_BNC[:, -1].clone()
        self.seen += sums_BNC.shape[1]
        self.is_initialized = True
        return sums_BNC

    def tensors(self):
        return ["total"] if self.total is not None else []

    def reset(self):
        super().reset()
        self.total = None

    def crop(self, amount):
        self.check_crop(amount)

    def check_crop(self, amount):
        if self.tokens_to_remove(amount):
            raise ValueError("a sum cannot be taken apart: mean pooling cannot go back")


class MeanPoolPart:
    FIELDS = ("heads", "kv_heads", "head_dim")
    MASK_FIELDS = ()

    def build(self, attention_class, config, layer_idx, part):
        return MeanPoolAttention(config, layer_idx, part)

    def make_cache(self, config, layer_idx, part, reserved):
        return SumLayer()

    def make_mask(self, context, part):
        if context.segments_BQ is not None:
            raise ValueError("mean pooling runs over a whole row: give packed sequences as rows of their own")
        total = context.seen + context.queries
        if context.real_BK is None:
            count = torch.arange(context.seen + 1, total + 1, device=context.device).view(1, -1, 1)
            return torch.ones_like(count), count
        real = context.real_BK.long()
        count = real.cumsum(dim=1)[:, context.seen :].clamp_min(1).unsqueeze(-1)
        return real[:, context.seen :].unsqueeze(-1), count


PART = MeanPoolPart()
