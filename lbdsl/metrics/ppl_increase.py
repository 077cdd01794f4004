"""`ppl_increase`: how much perplexity rose."""

from __future__ import annotations

from collections.abc import Sequence

from lbdsl.core.arithmetic import exponential
from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.metrics.base import DerivedMetric
from lbdsl.metrics.nll import NextTokenLoss


class PerplexityIncrease(DerivedMetric):
    """Rise of perplexity of the finished model over its base, on held-out text.

    What: exp of the rise of the mean next-token loss, minus 1; 5% is a perplexity that is 1.05 times the base's.
    Why: the usual measure of damage; relative to the base, it is comparable across texts and models.
    Example: `assert ppl_increase < 5%`
    Source: Jelinek and others, 1977.
    """

    kind = "ppl_increase"
    unit = Unit.RATIO
    title = "perplexity increase"
    bound = "< 5%"
    means = (NextTokenLoss,)

    @staticmethod
    def value(means: Sequence[Measurement]) -> tuple[float, float]:
        (rise,) = means
        factor = exponential(rise.value)
        return factor - 1, factor * rise.stderr  # first-order error propagation
