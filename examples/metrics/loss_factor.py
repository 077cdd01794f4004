"""A metric of one's own, of the finished model: its loss over that of its base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lbdsl.plugins import DerivedMetric, LogitsMetric, Measurement, NextTokenLoss, Unit

if TYPE_CHECKING:
    import torch


class _BaseLoss(LogitsMetric):
    """The base's own loss. A class whose name begins with `_` is no metric of the language."""

    kind = "loss_factor_base"
    unit = Unit.NATS

    @staticmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        return -base_logp_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1)


class LossFactor(DerivedMetric):
    """Next-token loss of the finished model over that of its base, on held-out text.

    What: the mean loss of the finished model divided by that of the base, in nats a token each.
    Why: a text that is hard for the base may cost its change more nats.
    Example: `assert loss_factor < 1.1`
    Source: none; an example.
    """

    kind = "loss_factor"
    unit = Unit.NONE
    bound = "< 1.1"
    means = (_BaseLoss, NextTokenLoss)

    @staticmethod
    def value(means: Sequence[Measurement]) -> tuple[float, float]:
        base, rise = means
        return 1 + rise.value / base.value, rise.stderr / base.value
