"""`agreement`: how often the finished model and its base predict the same token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.core.units import Unit
from lbdsl.metrics.base import LogitsMetric, Of

if TYPE_CHECKING:
    import torch


class Agreement(LogitsMetric):
    """Share of tokens at which the finished model and its base predict the same one.

    What: the share of tokens at which both predict the same most likely next token, whether it is the text's or not. Of
    several that are equally likely it is the share that both have: a model to which all are alike agrees with nothing.
    Why: with greedy decoding, a user sees no difference where they agree.
    Example: `assert agreement >= 90%`
    Source: Stanton and others, 2021 (arXiv 2106.05945), for a student and its teacher.
    """

    kind = "agreement"
    unit = Unit.RATIO
    of = frozenset({Of.FINISHED})
    title = "top-1 agreement"
    bound = ">= 90%"

    @staticmethod
    def per_token(base_logp_NV: torch.Tensor, changed_logp_NV: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        base_NV, changed_NV = (logp == logp.amax(-1, keepdim=True) for logp in (base_logp_NV, changed_logp_NV))
        return (base_NV & changed_NV).sum(-1).double() / (base_NV | changed_NV).sum(-1)
