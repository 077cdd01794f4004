"""A metric of one's own, of a layer and of the whole changed model: how often the most likely next token is another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.plugins import LogitsMetric, Unit

if TYPE_CHECKING:
    import torch


class Flips(LogitsMetric):
    """Share of tokens at which a change makes another next token the most likely one.

    What: mean over tokens of 1 where the base and the changed model find another token most likely, else 0.
    Why: without sampling, these are the places where a user sees a difference.
    Example: `lowest 8 by flips drop`
    Source: flips of answers, Dutta and others, 2024 (arXiv 2407.09141).
    """

    kind = "flips"
    unit = Unit.RATIO
    bound = "< 10%"

    @staticmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        return (base_logp_NV.argmax(-1) != changed_logp_NV.argmax(-1)).double()
