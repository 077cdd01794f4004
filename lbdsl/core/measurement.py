"""Measured values, and the requests that identify what is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lbdsl.core.units import Unit, plural


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


class NoValue(NamedTuple):
    """Why a judged value does not exist, as the end of a sentence, and what gives one."""

    reason: str
    help: str


@dataclass(frozen=True)
class Measurement:
    """A mean over tokens, with its standard error clustered by sequence (NaN with fewer than two sequences). `missing`:
    why it says nothing, where that cannot be read off the numbers."""

    value: float
    stderr: float
    unit: Unit
    tokens: int
    sequences: int
    missing: NoValue | None = None


def added(terms: Sequence[tuple[float, Measurement]]) -> Measurement:
    """The sum of values of one unit, each times a weight; their errors add in quadrature."""
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    finite = all(math.isfinite(one.value) for _, one in terms)
    value = math.fsum(weight * one.value for weight, one in terms) if finite else math.nan
    stderr = math.hypot(*(weight * one.stderr for weight, one in terms))
    return Measurement(
        value, stderr, terms[0][1].unit, sum(one.tokens for _, one in terms), min(one.sequences for _, one in terms)
    )


NOT_ASKED = NoValue("was not asked", "name its text or task in the `eval` block, or on the command line of `eval`")
NOT_FINITE = NoValue(
    "is not finite", "the model computes NaN or infinity: try `--dtype float32`, a lower `lr`, or change less"
)
TOO_LITTLE = NoValue(
    "has too little text: it is of one sequence or question", "raise `tokens` or `limit` in the `eval` block"
)
NONE_RIGHT = NoValue(
    "has no value: the base itself has no right answer", "ask what the base can answer: `lbdsl eval MODEL` shows its share"
)


def cut_short(answers: int) -> NoValue:
    """Of a task's answers, whose beginnings do not fit into the model's positions."""
    return NoValue(
        f"has no value: {plural(answers, 'answer')} came after a beginning that was cut short to the model's positions",
        "ask shorter questions, or fewer: `limit` in the `eval` block",
    )


def no_value(found: Measurement | None) -> NoValue | None:
    """Why a judged value does not exist; None if it does. Everything that is gated asks here."""
    if found is None:
        return NOT_ASKED
    if found.missing is not None:
        return found.missing
    if not math.isfinite(found.value):
        return NOT_FINITE
    return TOO_LITTLE if found.sequences < 2 else None


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
    clusters = len(counts)
    finite = all(map(math.isfinite, sums))
    mean = (math.fsum(sums) if finite else sum(sums)) / total
    if clusters < 2 or not finite:
        return Measurement(mean, math.nan, unit, round(total), clusters)
    spread = math.fsum((s - mean * n) ** 2 for s, n in zip(sums, counts, strict=True))
    stderr = math.sqrt(clusters / (clusters - 1) * spread) / total
    return Measurement(mean, stderr, unit, round(total), clusters)
