"""`kl_healed`: how far the finished model's predictions are from the base's."""

from __future__ import annotations

from collections.abc import Sequence

from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.metrics.base import DerivedMetric
from lbdsl.metrics.kl import KullbackLeibler


class HealedDivergence(DerivedMetric):
    """KL(base || finished model), in nats per token, on held-out text.

    What: the `kl` of the finished model: the mean over tokens of sum_v p_base(v) (log p_base(v) - log p_finished(v)).
    Why: training on similar text can restore perplexity; this measures whether the model still predicts like its base.
    Example: `assert kl_healed < 0.2`
    Source: Kullback and Leibler, 1951.
    """

    kind = "kl_healed"
    unit = Unit.NATS
    title = "KL to the base"
    means = (KullbackLeibler,)

    @staticmethod
    def value(means: Sequence[Measurement]) -> tuple[float, float]:
        (kl,) = means
        return kl.value, kl.stderr
