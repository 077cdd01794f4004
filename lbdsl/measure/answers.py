"""What the score of a task is made of: the loss of each answer, and how many of its tokens are not the first choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from lbdsl.core.units import Unit
from lbdsl.metrics import LogitsMetric


def first_choices(logp_NV: Tensor, target_N: Tensor) -> Tensor:
    """1 where a token is the most likely one, 0 elsewhere, [N] in fp64; NaN where the log-probabilities are not finite. Of
    several that are equally likely none is: a model that always says the same would be right by their order."""
    own_N1 = logp_NV.gather(-1, target_N.unsqueeze(-1))
    first_N = (logp_NV >= own_N1).sum(-1) == 1
    return first_N.double().where(own_N1.squeeze(-1).isfinite(), math.nan)


class Answered(NamedTuple):
    """A model's answers, by row: the loss of each in nats, and its number of tokens that are not the first choice. NaN
    where the likelihoods are not finite."""

    losses: Mapping[int, float]
    misses: Mapping[int, float]


class AnswerLoss(LogitsMetric):
    """-log p(next token) of the changed model alone, in nats."""

    kind = "answer loss"
    unit = Unit.NATS

    @staticmethod
    def per_token(base_logp_NV: Tensor, changed_logp_NV: Tensor, target_N: Tensor) -> Tensor:
        return -changed_logp_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1)


class AnswerMiss(LogitsMetric):
    """1 where the next token is not the changed model's first choice; see `first_choices`."""

    kind = "answer not first"
    unit = Unit.RATIO

    @staticmethod
    def per_token(base_logp_NV: Tensor, changed_logp_NV: Tensor, target_N: Tensor) -> Tensor:
        return 1 - first_choices(changed_logp_NV, target_N)


ANSWERED: Mapping[str, type[LogitsMetric]] = {cls.kind: cls for cls in (AnswerLoss, AnswerMiss)}
"""By name. They are no metrics of the language: a task says what its answers are worth."""
