"""Mixtures of several texts, by their share of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lbdsl.core.digest import digest_of
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.split import TextPart


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """`count` sequences divided by weight, at least one for each (so more than `count` for more weights), the remainders to
    the largest fractions."""
    left, total = max(0, count - len(weights)), sum(weights)
    exact = [max(0.0, count * weight / total - 1) for weight in weights]
    exact = [left * value / (sum(exact) or 1.0) for value in exact]
    found = [1 + int(value) for value in exact]
    by_fraction = sorted(range(len(weights)), key=lambda place: int(exact[place]) - exact[place])
    for place in by_fraction[: max(0, count - sum(found))]:
        found[place] += 1
    return found


def mixed(blocks: Sequence[TokenBlocks], part: TextPart, seed: int, data: str) -> TokenBlocks:
    """The sequences of several texts, in a random order, or for measuring one text after the other."""
    ids_SN = torch.cat([text.ids for text in blocks])
    if part is TextPart.HEAL:
        ids_SN = ids_SN[torch.randperm(len(ids_SN), generator=torch.Generator().manual_seed(seed))]
    passes = max(text.tokens / text.available if text.available else 1.0 for text in blocks)
    return TokenBlocks(
        ids_SN.contiguous(),
        digest_of([part.value, seed, *(text.digest for text in blocks)]),
        data,
        part,
        seed,
        max(text.passes for text in blocks),
        int(ids_SN.numel() / passes) if passes > 1 else None,
    )
