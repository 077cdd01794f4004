"""Metrics on the residual stream: what one layer, or its attention, does to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import Tensor

from lbdsl.core.measurement import Request
from lbdsl.measure.predictions import sums_of
from lbdsl.measure.store import Key, Sum
from lbdsl.measure.work import key_of
from lbdsl.metrics import ResidualMetric, metrics

BLOCK = "block"


def residual_sums(
    requests: Sequence[Request], layer: Any, before_BND: Tensor, after_BND: Tensor, inputs: Any, rows: range
) -> Iterator[tuple[Key, int, Sum]]:
    """Sums of (key, sequence) of the residual metrics of one layer, for B sequences of N tokens.

    `before_BND` and `after_BND` are the stream before and after the whole layer; what its attention alone gives is computed
    where a request is about that. `rows` are the sequences' numbers.
    """
    attended_BND: Tensor | None = None
    for request in requests:
        metric = cast(type[ResidualMetric], metrics()[request.metric])
        then_BND = after_BND
        if request.action != BLOCK:
            if attended_BND is None:
                attended_BND = layer.attention_residual(before_BND, inputs)
            then_BND = attended_BND
        values_M = metric.per_token(before_BND.flatten(0, 1).float(), then_BND.flatten(0, 1).float())
        for row, value in zip(rows, sums_of(values_M.view(before_BND.shape[:2])), strict=True):
            yield key_of(request), row, value
