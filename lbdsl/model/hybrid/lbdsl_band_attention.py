"""Attention over a window in time and memory that grow with the number of tokens, not with its square, for the first N
tokens of rows without padding.

Queries are taken in blocks of c tokens. With w = window and m = ceil((w - 1) / c), a block at s .. s + c - 1 attends to
the columns s - m c .. s + c - 1 by one mask, which is the same for all blocks; so the work is N (m c + c) instead of N^2.
The heads that share keys are rows of one block. The first tokens, whose blocks would begin before column 0, are computed
with an ordinary mask.

Source: sliding chunks, Longformer (arXiv 2004.05150).
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK = 128
"""Queries in a block: c above."""


@dataclass(frozen=True)
class Band:
    """In place of a mask: query i sees columns i - window + 1 .. i, the first `sinks` columns up to i, and the last `added`
    columns, which are not tokens."""

    window: int
    sinks: int = 0
    added: int = 0

    @property
    def start(self):
        """The first query whose block sees no column before 0, and no sink in its window."""
        return BLOCK * (-(-(self.window - 1) // BLOCK) + -(-self.sinks // BLOCK))


def worth_bands(tokens, window, sinks):
    """Whether bands are faster than a mask over `tokens` new tokens."""
    return tokens >= Band(window, sinks).start + BLOCK


def attend_in_bands(query_BHND, key_BGKD, value_BGKD, band, scaling, dropout=0.0):
    """The output [B, N, H, D] of N queries; K = N + band.added."""
    tokens = query_BHND.shape[2]
    start = min(band.start, tokens)
    first = _first(query_BHND[:, :, :start], key_BGKD, value_BGKD, band, scaling, dropout)
    rest = _blocks(query_BHND, key_BGKD, value_BGKD, band, start, scaling, dropout)
    return torch.cat([first, rest], dim=2).transpose(1, 2)


def _first(query_BHSD, key_BGKD, value_BGKD, band, scaling, dropout):
    """[B, H, S, D] of the first S queries, with a mask."""
    start, (heads, groups) = query_BHSD.shape[2], (query_BHSD.shape[1], key_BGKD.shape[1])
    tokens = key_BGKD.shape[2] - band.added
    key, value = (
        torch.cat([x[:, :, :start], x[:, :, tokens:]], dim=2).repeat_interleave(heads // groups, dim=1)
        for x in (key_BGKD, value_BGKD)
    )
    q = torch.arange(start, device=query_BHSD.device).unsqueeze(1)
    k = torch.arange(start, device=query_BHSD.device)
    seen = (k <= q) & ((k > q - band.window) | (k < band.sinks))
    mask = pad(seen, (0, band.added), value=True)
    return scaled_dot_product_attention(query_BHSD, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)


def _blocks(query_BHND, key_BGKD, value_BGKD, band, start, scaling, dropout):
    """[B, H, N - start, D] of the queries from `start` on, in blocks."""
    c, device = BLOCK, query_BHND.device
    behind = c * -(-(band.window - 1) // c)
    batch, heads, tokens, size = query_BHND.shape
    groups = key_BGKD.shape[1]
    count = -(-(tokens - start) // c)
    short = start + count * c - tokens
    query = pad(query_BHND[:, :, start:], (0, 0, 0, short)).view(batch, groups, heads // groups, count, c, size)
    query = query.transpose(2, 3).reshape(-1, 1, heads // groups * c, size)

    def bands(states_BGKD):
        own = pad(states_BGKD[:, :, start - behind : tokens], (0, 0, 0, short)).view(batch, groups, -1, c, size)
        parts = [own[:, :, place : place + count] for place in range(behind // c + 1)]
        seen_by_all = [states_BGKD[:, :, : band.sinks], states_BGKD[:, :, tokens:]]
        parts += [x.unsqueeze(2).expand(-1, -1, count, -1, -1) for x in seen_by_all if x.shape[2]]
        return torch.cat(parts, dim=3).view(batch * groups * count, 1, -1, size)

    q = torch.arange(c, device=device).unsqueeze(1)
    k = torch.arange(-behind, c, device=device)
    seen = pad((k <= q) & (k > q - band.window), (0, band.sinks + band.added), value=True)
    output = scaled_dot_product_attention(
        query,
        bands(key_BGKD),
        bands(value_BGKD),
        attn_mask=seen.repeat(heads // groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    output = output.view(batch, groups, count, heads // groups, c, size).transpose(2, 3)
    return output.reshape(batch, heads, count * c, size)[:, :, : tokens - start]
