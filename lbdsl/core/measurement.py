"""Measured values, and the requests that identify what is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lbdsl.core.units import Unit


@dataclass(frozen=True)
class Request:
    """One number the recipe needs for one layer.

    `metric` is a metric's name, with `sensitivity` already replaced by the metric it stands for. `action` is the canonical
    text of the action under which it is measured (`drop`, `swa(window=256, sinks=4)`). For metrics without an action it is
    the part of the layer that they measure: `block`, or "" for the attention.
    """

    metric: str
    action: str
    layer: int


@dataclass(frozen=True)
class Measurement:
    """A mean over tokens, with its standard error clustered by sequence (NaN with fewer than two sequences)."""

    value: float
    stderr: float
    unit: Unit
    tokens: int
    sequences: int


def clustered_mean(sums: Sequence[float], counts: Sequence[float], unit: Unit) -> Measurement:
    """Mean of all tokens and its cluster-robust standard error.

    `sums[s]` is the sum over sequence s of the per-token values, `counts[s]` its number of tokens (or what
    else the mean is over). With N tokens in S
    clusters, the ratio estimator's error is sqrt(S / (S - 1) * sum_s (sums_s - mean * counts_s)^2) / N (Cochran, Sampling
    Techniques, 3rd ed., ch. 9).
    """
    if len(sums) != len(counts) or not counts or sum(counts) <= 0:
        raise ValueError("a mean needs at least one token, and one count for every sum")
    total = sum(counts)
    mean = math.fsum(sums) / total
    clusters = len(counts)
    if clusters < 2:
        return Measurement(mean, math.nan, unit, round(total), clusters)
    spread = math.fsum((s - mean * n) ** 2 for s, n in zip(sums, counts, strict=True))
    stderr = math.sqrt(clusters / (clusters - 1) * spread) / total
    return Measurement(mean, stderr, unit, round(total), clusters)
