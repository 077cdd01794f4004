"""`kl`: how far the changed model's predictions are from the base's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.core.units import Unit
from lbdsl.metrics.base import LogitsMetric

if TYPE_CHECKING:
    import torch


class KullbackLeibler(LogitsMetric):
    """KL(base || changed) of the next-token distributions under an action, in nats per token.

    What: mean over tokens of sum_v p_base(v) (log p_base(v) - log p_changed(v)).
    Why: it measures every change of the distribution, not only of the correct token, and so needs fewer tokens.
    Example: `lowest 16 of rest by kl(swa(window=256)) swa(window=256)`
    Source: Kullback and Leibler, 1951; KL-guided layer selection (arXiv 2512.20569).
    """

    kind = "kl"
    unit = Unit.NATS
    title = "KL"

    @staticmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        return (base_logp_NV.exp() * (base_logp_NV - changed_logp_NV)).sum(-1)
