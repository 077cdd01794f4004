"""How much of a text for judging also stands in the texts that chose or healed the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

GRAM = 24
"""Tokens in a row that two texts must share; about 13 to 18 words. Source: Brown et al. 2020 (arXiv 2005.14165), appendix
C, who take 13 words."""

NOTABLE = 0.01
"""The share from which on it is said."""

_FACTOR = 6364136223846793005
"""An odd factor of 64 bits (Knuth), so that sums of token ids times its powers tell runs of tokens apart."""


def shared(text_SN: Tensor, others: Iterable[Tensor]) -> float:
    """The share of the runs of GRAM tokens in a text [S, N] that are also in the others; 0 for shorter sequences."""
    import torch

    wanted = _hashes(text_SN)
    if not wanted.numel():
        return 0.0
    found = torch.zeros(len(wanted), dtype=torch.bool)
    for other in others:
        found |= torch.isin(wanted, _hashes(other))
    return found.float().mean().item()


def _hashes(ids_SN: Tensor) -> Tensor:
    """One 64-bit number for each run of GRAM tokens within a sequence."""
    import torch

    if ids_SN.shape[1] < GRAM:
        return torch.zeros(0, dtype=torch.int64)
    total_SM = torch.zeros(len(ids_SN), ids_SN.shape[1] - GRAM + 1, dtype=torch.int64)
    for place in range(GRAM):
        # int64 wraps around, as a hash may.
        total_SM = total_SM * _FACTOR + ids_SN[:, place : place + total_SM.shape[1]] + 1
    return total_SM.flatten()
