"""Attention over a window in time and memory that grow with the number of tokens, not with its square, for the first N
tokens of rows without padding.

Queries are taken in blocks of c tokens. With w = window and m = ceil((w - 1) / c), a block at s .. s + c - 1 attends to
the columns s - m c .. s + c - 1 by one mask, which is the same for all blocks; so the work is N (m c + c) instead of N^2.
The heads that share keys are rows of one block. The first tokens, whose blocks would begin before column 0, are computed
with an ordinary mask.

A learned sink s of a head adds exp(s) to the softmax's denominator, so it divides an output without sinks, whose
denominator is exp(l), by 1 + exp(s - l). The gradients of queries, keys and values are those of attention whose
denominator is exp(l) + exp(s).

Sources: sliding chunks, Longformer (arXiv 2004.05150); learned sinks, gpt-oss (arXiv 2508.10925); the backward pass from
outputs and denominators, FlashAttention (arXiv 2205.14135).
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK = 128
"""Queries in a block: c above."""


@dataclass(frozen=True)
class Band:
    """In place of a mask: query i sees columns i - window + 1 .. i, and the first `sinks` columns up to i."""

    window: int
    sinks: int = 0

    @property
    def start(self):
        """The first query whose block sees no column before 0, and no sink in its window."""
        return BLOCK * (-(-(self.window - 1) // BLOCK) + -(-self.sinks // BLOCK))


def worth_bands(tokens, window, sinks):
    """Whether bands are faster than a mask over `tokens` new tokens."""
    return tokens >= Band(window, sinks).start + BLOCK


def attend_in_bands(query_BHND, key_BGND, value_BGND, band, scaling, sinks_H=None):
    """The output [B, N, H, D]; `sinks_H` are learned sinks. On a CPU; the dropout is 0."""
    output = _blocks(query_BHND, key_BGND, value_BGND, band, scaling, sinks_H)
    if start := band.start:
        first = (states[:, :, :start] for states in (query_BHND, key_BGND, value_BGND))
        output = torch.cat([_first(*first, band, scaling, sinks_H), output], dim=2)
    return output.transpose(1, 2)


def _first(query_BHSD, key_BGSD, value_BGSD, band, scaling, sinks_H):
    """[B, H, S, D] of the first S queries, with a mask."""
    batch, heads, start, _ = query_BHSD.shape
    key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key_BGSD, value_BGSD))
    q = torch.arange(start, device=query_BHSD.device).unsqueeze(1)
    k = torch.arange(start, device=query_BHSD.device)
    seen = (k <= q) & ((k > q - band.window) | (k < band.sinks))
    sinks = None if sinks_H is None else sinks_H.view(1, heads, 1).expand(batch, heads, start)
    return _attended(query_BHSD, key, value, seen, scaling, sinks)


def _blocks(query_BHND, key_BGND, value_BGND, band, scaling, sinks_H):
    """[B, H, N - start, D] of the queries from `band.start` on, in blocks."""
    c, start, device = BLOCK, band.start, query_BHND.device
    behind = c * -(-(band.window - 1) // c)
    batch, heads, tokens, size = query_BHND.shape
    groups = key_BGND.shape[1]
    shared = heads // groups
    count = -(-(tokens - start) // c)
    short = start + count * c - tokens
    query = pad(query_BHND[:, :, start:], (0, 0, 0, short)).view(batch, groups, shared, count, c, size)
    query = query.transpose(2, 3).reshape(-1, 1, shared * c, size)

    def bands(states_BGND):
        own = pad(states_BGND[:, :, start - behind :], (0, 0, 0, short)).view(batch, groups, -1, c, size)
        parts = [own[:, :, place : place + count] for place in range(behind // c + 1)]
        if band.sinks:
            parts.append(states_BGND[:, :, None, : band.sinks].expand(-1, -1, count, -1, -1))
        return torch.cat(parts, dim=3).view(batch * groups * count, 1, -1, size)

    q = torch.arange(c, device=device).unsqueeze(1)
    k = torch.arange(-behind, c, device=device)
    seen = pad((k <= q) & (k > q - band.window), (0, band.sinks), value=True)
    sinks = None
    if sinks_H is not None:
        sinks = sinks_H.view(1, groups, 1, shared, 1).expand(batch, groups, count, shared, c).reshape(-1, 1, shared * c)
    output = _attended(query, bands(key_BGND), bands(value_BGND), seen.repeat(shared, 1), scaling, sinks)
    output = output.view(batch, groups, count, shared, c, size).transpose(2, 3)
    return output.reshape(batch, heads, count * c, size)[:, :, : tokens - start]


def _attended(query, key, value, seen_QK, scaling, sinks_BHQ):
    """[B, H, Q, D], with a learned sink for each query or None."""
    if sinks_BHQ is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=seen_QK, scale=scaling)
    # Autocast does not see the operation below.
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    query, key, value = (states.to(dtype) for states in (query, key, value))
    mask = torch.zeros(seen_QK.shape, dtype=query.dtype).masked_fill_(~seen_QK, float("-inf"))
    return _WithSinks.apply(query, key, value, mask, scaling, sinks_BHQ)


class _WithSinks(torch.autograd.Function):
    """`scaled_dot_product_attention` of a CPU, whose denominators PyTorch's public function does not return."""

    @staticmethod
    def forward(ctx, query, key, value, mask, scaling, sinks_BHQ):
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, own_BHQ = attend(query, key, value, attn_mask=mask, scale=scaling)
        total_BHQ = torch.logaddexp(own_BHQ, sinks_BHQ.to(own_BHQ.dtype))
        output.mul_((own_BHQ - total_BHQ).exp_().unsqueeze(-1))
        ctx.save_for_backward(query, key, value, mask, output, total_BHQ, sinks_BHQ)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx, grad):
        query, key, value, mask, output, total_BHQ, sinks_BHQ = ctx.saved_tensors
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        states = grad, query, key, value, output, total_BHQ, 0.0, False
        gradients = backward(*states, attn_mask=mask, scale=ctx.scaling)
        sinks = None
        if ctx.needs_input_grad[-1]:
            sinks = -(sinks_BHQ.to(total_BHQ.dtype) - total_BHQ).exp() * (grad * output).sum(-1, dtype=total_BHQ.dtype)
            sinks = sinks.to(sinks_BHQ.dtype)
        return *gradients, None, None, sinks
