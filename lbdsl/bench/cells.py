"""What is measured: cells of a context, a batch and a metric, as ratios of paired runs."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lbdsl.artifact.benched import Cell

T = TypeVar("T")
RESAMPLES = 2000
SHARE = 0.95
"""The share of the resampled medians that lie between `low` and `high`."""


@dataclass
class Measured:
    """What an engine of this `version` gave so far. `export` is the format in which it served the artifact; None for the
    artifact itself."""

    engine: str
    version: str
    export: str | None = None
    cells: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class Pair(Generic[T]):
    """Neighbouring runs: the base, the artifact, and the base again."""

    base: T
    artifact: T
    again: T

    def each(self, change: Callable[..., float], *others: Pair[T]) -> Pair[float]:
        """The pair of what `change` makes of the three figures, and of those of other pairs."""
        pairs = (self, *others)
        return Pair(*map(change, *((pair.base, pair.artifact, pair.again) for pair in pairs)))


def by_turns(runs: Sequence[Callable[[], T]], pairs: int, told: Callable[[], object]) -> list[Pair[T]]:
    """Runs of the base, of the artifact and of the base again, forwards and backwards by turns; `told` is called after each
    pair."""
    found = []
    for turn in range(pairs):
        figures = {which: runs[which]() for which in ((0, 1, 2) if turn % 2 == 0 else (2, 1, 0))}
        found.append(Pair(figures[0], figures[1], figures[2]))
        told()
    return found


def exact(base: float, artifact: float, **names: Any) -> Cell:
    """A cell of a count, which has no spread."""
    ratio = artifact / base
    return Cell(**names, base=base, artifact=artifact, ratio=ratio, low=ratio, high=ratio)


def paired(pairs: Sequence[Pair[float]], **names: Any) -> Cell:
    """The cell of several pairs."""
    logs = [math.log(pair.artifact / pair.base) for pair in pairs]
    low, high = interval(logs)
    return Cell(
        **names,
        base=statistics.median(pair.base for pair in pairs),
        artifact=statistics.median(pair.artifact for pair in pairs),
        ratio=math.exp(statistics.median(logs)),
        low=math.exp(low),
        high=math.exp(high),
        again=math.exp(statistics.median(math.log(pair.again / pair.base) for pair in pairs)),
    )


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the median (percentile method, Efron 1979)."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    edge = round(RESAMPLES * (1 - SHARE) / 2)
    return medians[edge], medians[-edge - 1]
