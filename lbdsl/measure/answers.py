"""What the score of a task is made of: the loss of each answer, and how many of its tokens are not the first choice."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lbdsl.core.units import Unit
from lbdsl.metrics import LogitsMetric


class AnswerLoss(LogitsMetric):
    """-log p(next token) of the changed model alone, in nats."""

    kind = "answer loss"
    unit = Unit.NATS

    @staticmethod
    def per_token(base_logp_NV: Tensor, changed_logp_NV: Tensor, target_N: Tensor) -> Tensor:
        return -changed_logp_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1)


class AnswerMiss(LogitsMetric):
    """1 where the next token is not the changed model's first choice."""

    kind = "answer miss"
    unit = Unit.RATIO

    @staticmethod
    def per_token(base_logp_NV: Tensor, changed_logp_NV: Tensor, target_N: Tensor) -> Tensor:
        return (changed_logp_NV.argmax(-1) != target_N).double()


ANSWERED: Mapping[str, type[LogitsMetric]] = {cls.kind: cls for cls in (AnswerLoss, AnswerMiss)}
"""By name. They are no metrics of the language: a task says what its answers are worth."""
