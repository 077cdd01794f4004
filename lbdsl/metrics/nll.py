"""`nll`: rise of the mean next-token loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.core.units import Unit
from lbdsl.metrics.base import LogitsMetric

if TYPE_CHECKING:
    import torch


class NextTokenLoss(LogitsMetric):
    """Rise of the mean next-token loss under an action, in nats per token.

    What: mean over tokens of -log p_changed(next) + log p_base(next).
    Why: its exp is the factor on perplexity: below 0.1, perplexity rises by less than about 10.5 %.
    Example: `lowest 8 by nll(drop) drop`
    Source: LayerBoost's ablation (arXiv 2604.22050).
    """

    kind = "nll"
    unit = Unit.NATS
    title = "loss rise"

    @staticmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        index_N1 = target_N.unsqueeze(-1)
        return (base_logp_NV.gather(-1, index_N1) - changed_logp_NV.gather(-1, index_N1)).squeeze(-1)
