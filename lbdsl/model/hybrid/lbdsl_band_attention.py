"""Attention over a window in time and memory that grow with the number of tokens, not with its square, for the first N
tokens of rows without padding.

Queries are taken in blocks of c tokens. With w = window and m = ceil((w - 1) / c), a block at s .. s + c - 1 attends to
the columns s - m c .. s + c - 1 by one mask, which is the same for all blocks; so the work is N (m c + c) instead of N^2.
The heads that share keys are rows of one block, and its keys a view of all keys: nothing of them is copied. The first
m c tokens, whose blocks would begin before column 0, have a mask for each of few longer blocks. Many blocks are computed
at a time, as many as a processor's cache holds.

The softmax over a window and over sinks is put together from both: with outputs O_i, each over its own keys, whose
denominators are exp(l_i), the whole is sum_i exp(l_i - l) O_i with exp(l) = sum_i exp(l_i). A learned sink s of a head has
the denominator exp(s) and no output. The gradients of each part's queries, keys and values are those of attention with the
whole output and the denominator exp(l).

Sources: sliding chunks, Longformer (arXiv 2004.05150); learned sinks, gpt-oss (arXiv 2508.10925); the backward pass from
outputs and denominators, FlashAttention (arXiv 2205.14135).
"""

from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

BLOCK = 64
"""Queries in a block: c above."""
FIRST = 2 * BLOCK
"""Queries in a block of the first tokens."""
PART = 2048
"""Tokens of all rows that are computed at a time."""


@dataclass(frozen=True)
class Band:
    """In place of a mask: query i sees columns i - window + 1 .. i, and the first `sinks` columns up to i."""

    window: int
    sinks: int = 0

    @property
    def behind(self):
        """The columns before a block that it sees: m c above."""
        return BLOCK * -(-(self.window - 1) // BLOCK)

    @property
    def start(self):
        """The first query whose block sees no column before 0, and no sink in its window."""
        return self.behind + BLOCK * -(-self.sinks // BLOCK)


@dataclass(frozen=True)
class Blocks:
    """`count` blocks of `size` queries from `place` on, each of which sees `behind` columns before it. `beside`: columns
    that are sinks lie before those, and have to be attended to besides."""

    place: int
    count: int
    size: int
    behind: int
    beside: bool = False

    @property
    def own(self):
        return slice(self.place, self.place + self.count * self.size)

    @property
    def seen(self):
        return slice(self.place - self.behind, self.own.stop)


def worth_bands(tokens, window, sinks):
    """Whether bands are faster than a mask over `tokens` new tokens."""
    return tokens >= Band(window, sinks).start + BLOCK


def attend_in_bands(query_BHND, key_BGND, value_BGND, band, scaling, sinks_H=None):
    """The output [B, N, H, D]; `sinks_H` are learned sinks. On a CPU; the dropout is 0."""
    # Autocast would see only some of the operations below.
    kind = query_BHND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value_BGND.dtype
    states = [states.to(dtype) for states in (query_BHND, key_BGND, value_BGND)]
    with torch.autocast(kind, enabled=False):
        return _Banded.apply(*states, sinks_H, band, scaling)


class _Banded(torch.autograd.Function):
    """By the kernels of `scaled_dot_product_attention` on a CPU, whose denominators PyTorch's public function does not
    return. Rows [X, S, R, D] are those of S blocks of X = B * G groups: R queries, of all heads that share keys."""

    @staticmethod
    def forward(ctx, query_BHND, key_BGND, value_BGND, sinks_H, band, scaling):
        batch, heads, tokens, size = query_BHND.shape
        groups = key_BGND.shape[1]
        output_BNHD = query_BHND.new_empty(batch, tokens, heads, size)
        total_BHN1 = query_BHND.new_empty(batch, heads, tokens, 1, dtype=_wide(query_BHND))
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        key, value = key_BGND.flatten(0, 1), value_BGND.flatten(0, 1)
        for blocks in _parts(batch, tokens, band):
            query = _rows(query_BHND, blocks, groups)
            mask = _mask(blocks, band, query)
            found, own = attend(query, _seen(key, blocks), _seen(value, blocks), attn_mask=mask, scale=scaling)
            total = own = own.unsqueeze(-1)
            if sinks_H is not None:
                learned = sinks_H.to(own.dtype).view(1, heads, 1, 1).expand(batch, heads, tokens, 1)
                total = torch.logaddexp(total, _rows(learned, blocks, groups))
            if blocks.beside:
                scores = _scores(query, key[:, : band.sinks], scaling)
                total = torch.logaddexp(total, scores.logsumexp(1).view_as(total))
                shares = (scores - total.flatten(1).unsqueeze(1)).exp_().to(value.dtype)
                beside = (shares.mT @ value[:, : band.sinks]).view_as(query)
                found = beside.addcmul_(found, (own - total).exp_().to(found.dtype))
            elif sinks_H is not None:
                found.mul_((own - total).exp_())
            _put(output_BNHD.transpose(1, 2), blocks, groups, found)
            _put(total_BHN1, blocks, groups, total)
        ctx.save_for_backward(query_BHND, key_BGND, value_BGND, sinks_H, output_BNHD, total_BHN1)
        ctx.band, ctx.scaling = band, scaling
        return output_BNHD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BNHD):
        query_BHND, key_BGND, value_BGND, sinks_H, output_BNHD, total_BHN1 = ctx.saved_tensors
        groups, wide = key_BGND.shape[1], _wide(query_BHND)
        key, value = key_BGND.flatten(0, 1), value_BGND.flatten(0, 1)
        for_query = torch.empty_like(query_BHND)
        for_key, for_value = (torch.zeros(states.shape, dtype=wide) for states in (key, value))
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        whole = grad_BNHD.transpose(1, 2), query_BHND, output_BNHD.transpose(1, 2), total_BHN1
        for blocks in _parts(len(query_BHND), query_BHND.shape[2], ctx.band):
            grad, query, output, total = (_rows(states, blocks, groups) for states in whole)
            states = grad, query, _seen(key, blocks), _seen(value, blocks), output, total.squeeze(-1), 0.0, False
            found, *others = attend(*states, attn_mask=_mask(blocks, ctx.band, query), scale=ctx.scaling)
            for sum_XND, part in zip((for_key, for_value), others, strict=True):
                _add_overlapping(sum_XND, part, blocks)
            if blocks.beside:
                sinks = slice(0, ctx.band.sinks)
                shares = (_scores(query, key[:, sinks], ctx.scaling) - total.flatten(1).unsqueeze(1)).exp_()
                apart = _scores(grad, value[:, sinks], 1.0) - (grad * output).sum(-1, dtype=wide).flatten(1).unsqueeze(1)
                apart = apart.mul_(shares).mul_(ctx.scaling).to(query.dtype)
                found += (apart.mT @ key[:, sinks]).view_as(query)
                for_key[:, sinks] += apart @ query.flatten(1, 2)
                for_value[:, sinks] += shares.to(grad.dtype) @ grad.flatten(1, 2)
            _put(for_query, blocks, groups, found)
        for_sinks = None
        if ctx.needs_input_grad[3]:
            share = (sinks_H.to(wide).view(1, -1, 1) - total_BHN1.squeeze(-1)).exp()
            own = (grad_BNHD * output_BNHD).sum(-1, dtype=wide).transpose(1, 2)
            for_sinks = -(share * own).sum((0, 2)).to(sinks_H.dtype)
        others = (sum_XND.view(key_BGND.shape).to(key.dtype) for sum_XND in (for_key, for_value))
        return for_query, *others, for_sinks, None, None


def _parts(batch, tokens, band):
    for place in range(0, band.start, FIRST):
        yield Blocks(place, 1, min(FIRST, band.start - place), behind=place)
    beside = band.sinks > 0
    step = BLOCK * max(1, PART // (BLOCK * batch))
    rest = tokens - (tokens - band.start) % BLOCK
    for place in range(band.start, rest, step):
        yield Blocks(place, min(step, rest - place) // BLOCK, BLOCK, band.behind, beside)
    if rest < tokens:
        yield Blocks(rest, 1, tokens - rest, band.behind, beside)


def _by_block(states_BHND, blocks, groups):
    """A view: [B, G, S, heads that share keys, size, D]."""
    own = states_BHND[:, :, blocks.own].unflatten(1, (groups, -1)).unflatten(3, (blocks.count, blocks.size))
    return own.transpose(2, 3)


def _rows(states_BHND, blocks, groups):
    return _by_block(states_BHND, blocks, groups).flatten(3, 4).flatten(0, 1)


def _put(states_BHND, blocks, groups, rows_XSRD):
    view = _by_block(states_BHND, blocks, groups)
    view.copy_(rows_XSRD.unflatten(2, (-1, blocks.size)).unflatten(0, view.shape[:2]))


def _seen(states_XND, blocks):
    """A view: [X, S, columns, D]."""
    return states_XND[:, blocks.seen].unfold(1, blocks.behind + blocks.size, blocks.size).mT


def _mask(blocks, band, query_XSRD):
    """[R, columns]."""
    q, k = torch.arange(blocks.size).unsqueeze(1), torch.arange(-blocks.behind, blocks.size)
    seen = (k <= q) & ((k > q - band.window) | (k < band.sinks - blocks.place))
    mask = torch.zeros(seen.shape, dtype=query_XSRD.dtype).masked_fill_(~seen, float("-inf"))
    return mask.repeat(query_XSRD.shape[2] // blocks.size, 1)


def _scores(query_XSRD, key_XKD, scaling):
    """[X, K, S * R]."""
    wide = _wide(query_XSRD)
    return (scaling * key_XKD.to(wide)) @ query_XSRD.to(wide).flatten(1, 2).mT


def _add_overlapping(sum_XND, part_XSKD, blocks):
    """Blocks begin `size` columns apart: pieces of that size do not overlap."""
    size = blocks.size if blocks.count > 1 else part_XSKD.shape[2]
    for place, piece in enumerate(part_XSKD.split(size, dim=2)):
        first = blocks.seen.start + place * size
        sum_XND[:, first : first + blocks.count * size].unflatten(1, (blocks.count, size)).add_(piece)


def _wide(states):
    return torch.promote_types(states.dtype, torch.float32)
