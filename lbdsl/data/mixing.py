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
    order = torch.arange(sum(text.sequences for text in blocks))
    if part is TextPart.HEAL:
        order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
    ids_SN = torch.cat([text.ids for text in blocks])[order]
    starts_SN = torch.cat([_starts(text) for text in blocks])[order]
    answers_SN = None
    if any(text.answers is not None for text in blocks):
        none = [torch.zeros_like(text.ids, dtype=torch.bool) if text.answers is None else text.answers for text in blocks]
        answers_SN = torch.cat(none)[order]
    passes = max(text.tokens / text.available if text.available else 1.0 for text in blocks)
    return TokenBlocks(
        ids_SN.contiguous(),
        digest_of([part.value, seed, *(text.digest for text in blocks)]),
        data,
        part,
        seed,
        max(text.passes for text in blocks),
        int(ids_SN.numel() / passes) if passes > 1 else None,
        starts_SN,
        answers_SN,
        any(text.turns_unknown for text in blocks),
    )


def _starts(text: TokenBlocks) -> torch.Tensor:
    """Where documents begin; a sequence that a model wrote is one."""
    if text.starts is not None:
        return text.starts
    starts_SN = torch.zeros_like(text.ids, dtype=torch.bool)
    starts_SN[:, 0] = True
    return starts_SN
