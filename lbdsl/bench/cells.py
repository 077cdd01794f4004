"""What is measured: cells of a context, a batch and a metric, as ratios of paired runs."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lbdsl.artifact.benched import Cell

T = TypeVar("T")
RESAMPLES = 2000
SHARE = 0.95
"""The share of the resampled medians that lie between `low` and `high`."""


@dataclass
class Measured:
    """What an engine of this `version` gave so far, with so many threads, if it says how many. `export` is the format in
    which it served the artifact; None for the artifact itself. `served`: by a server. `machine`: what is known of the one
    that it ran on, where that is another than this process's."""

    engine: str
    version: str
    threads: int | None
    export: str | None = None
    served: bool = False
    cells: list[Cell] = field(default_factory=list)
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair(Generic[T]):
    """Runs of the base and of the artifact, one right after the other. `before` is the run before them, if there was one:
    of the base where that begins (`base_begins`), else of the artifact."""

    base: T
    artifact: T
    before: T | None = None
    base_begins: bool = True

    def each(self, change: Callable[..., float], *others: Pair[T]) -> Pair[float]:
        """The pair of what `change` makes of the figures, and of those of other pairs that begin alike."""
        pairs = (self, *others)
        before = None if self.before is None else change(*(pair.before for pair in pairs))
        base, artifact = change(*(pair.base for pair in pairs)), change(*(pair.artifact for pair in pairs))
        return Pair(base, artifact, before, self.base_begins)


def by_turns(
    base: Callable[[], T], artifact: Callable[[], T], pairs: int, told: Callable[[], object], warm: bool = True
) -> list[Pair[T]]:
    """Runs of both, the one first and the other first by turns (A B, B A, A B, ...), so that what drifts favours none;
    `told` is called after each run. `warm`: after one run of each that does not count."""

    def run(model: Callable[[], T]) -> T:
        figures = model()
        told()
        return figures

    found: list[Pair[T]] = []
    if warm:
        run(artifact), run(base)
    before = None
    for turn in range(pairs):
        begins, follows = (base, artifact) if turn % 2 == 0 else (artifact, base)
        first, then = run(begins), run(follows)
        both = (first, then) if turn % 2 == 0 else (then, first)
        found.append(Pair(*both, before, turn % 2 == 0))
        before = then
    return found


def exact(base: float, artifact: float, **names: Any) -> Cell:
    """A cell of a count, which has no spread."""
    ratio = artifact / base
    return Cell(**names, base=base, artifact=artifact, ratio=ratio, low=ratio, high=ratio)


def paired(pairs: Sequence[Pair[float]], **names: Any) -> Cell:
    """The cell of several pairs."""
    logs = [math.log(pair.artifact / pair.base) for pair in pairs]
    again = [
        math.log((pair.base if pair.base_begins else pair.artifact) / pair.before)
        for pair in pairs
        if pair.before is not None
    ]
    low, high = interval(logs)
    return Cell(
        **names,
        base=statistics.median(pair.base for pair in pairs),
        artifact=statistics.median(pair.artifact for pair in pairs),
        ratio=math.exp(statistics.median(logs)),
        low=math.exp(low),
        high=math.exp(high),
        again=math.exp(statistics.median(again)) if again else None,
        pairs=len(pairs),
    )


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the median (percentile method, Efron 1979)."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    edge = round(RESAMPLES * (1 - SHARE) / 2)
    return medians[edge], medians[-edge - 1]
