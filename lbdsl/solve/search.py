"""From the least sums of scores to the least joint value: scores of single layers do not add up, so the best plans are
measured as a whole, and layers then exchange their alternatives.

Source: EvoPress (arXiv 2410.14649): exchanges within a budget, many plans on little text, the best of them on all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, combinations, islice
from random import Random

from lbdsl.core.processes import Killed
from lbdsl.solve.choose import Judged, Problem
from lbdsl.solve.optimum import families, solutions
from lbdsl.solve.table import Choices, Key, key_of

STARTS = 8
"""Solutions that are measured: the best of each of `families`, then the least sums."""

PROPOSED, SHARE, FINALISTS = 24, 0.25, 4
"""In each round: how many neighbours of the best plan are measured on which share of the text, and how many at most of
those that are better there on all of it."""

PATIENCE = 5
"""The search ends after as many rounds in a row without a better plan."""

GUIDED = 5
"""How often, at most, the guides are scaled by what was measured."""

MeasurePlans = Callable[[Sequence[Choices], float], Sequence[Judged]]
"""What each plan is worth on a share of the text."""


@dataclass(frozen=True)
class Found:
    """best: what to choose. least: the least sum of scores. joint: by plan, what was measured on all of the text, the best
    first. spent: plans measured, one on a part of the text as that part. stopped: it was interrupted. first: the plan with
    the least sum, which was measured, too."""

    best: Choices
    least: float
    joint: Mapping[Key, Judged]
    spent: float = 0.0
    stopped: bool = False
    first: Choices | None = None


def search(
    problem: Problem,
    measure: MeasurePlans,
    *,
    tries: int,
    seed: int = 0,
    share: float = SHARE,
    best_so_far: bool = False,
) -> Found | None:
    """The plan of the best rank among those tried, at most `tries`; with 0 that with the least sum. None if no plan keeps
    the budgets of costs. Where no start keeps the bounds of what is measured, or all have room to cost less, the guides are
    scaled. Neighbours are measured on a `share` of the text. With `best_so_far` a KeyboardInterrupt in
    `measure`, if it is not `Killed`, ends it with the best plan: before any is measured, that with the least sum. Where the
    unchanged model keeps the budgets, nothing is measured."""
    if problem.unchanged and not problem.broken(problem.plain) and min(problem.scores.values(), default=0.0) >= 0:
        return Found(problem.plain, 0.0, {})
    # Tries are left for scaling the guides.
    starts = _starts(problem, min(STARTS, -(-tries // 3) if problem.guides else tries))
    if not starts or not tries:
        return Found(starts[0], problem.sum(starts[0]), {}) if starts else None
    state, stopped = _State(measure), False
    random, idle = Random(seed), 0
    rejected: set[Key] = set()
    rest = 1 - share
    try:
        # The unchanged model keeps the bounds, whatever it costs.
        own = problem.unchanged and problem.choosing.cost is not None and problem.plain not in starts
        plain = [problem.plain] if own and tries > 1 and not problem.broken(problem.plain) else []
        starts = starts[: tries - len(plain)]
        state.measure_all([*starts, *plain], 1.0)
        latest, guided = starts, problem
        for _ in range(GUIDED if problem.guides else 0):
            factors = _factors(problem, [state.joint[key_of(plan)] for plan in latest])
            if factors is None:
                break
            guided = guided.guided(factors)
            most = min(STARTS, math.ceil((tries - state.spent) / 2))
            latest = [plan for plan in _starts(guided, most) if key_of(plan) not in state.joint] if most else []
            if not latest:
                break
            state.measure_all(latest, 1.0)
        while idle < PATIENCE:
            # With room to measure one of them on the rest of the text.
            most = min(PROPOSED, int((tries - state.spent - rest) / share))
            best = state.best
            proposed = list(islice(_neighbours(guided, best, {*state.joint, *rejected}, random), max(0, most)))
            if not proposed:
                break
            here, *there = state.rough([best, *proposed], share)
            rejected |= {key_of(plan) for plan, value in zip(proposed, there, strict=True) if value >= here}
            better = sorted((value, number) for number, value in enumerate(there) if value < here)
            finalists = min(FINALISTS, int((tries - state.spent) / rest)) if rest else FINALISTS
            state.measure_all([proposed[number] for _, number in better[:finalists]], rest)
            idle = idle + 1 if state.best == best else 0
    except KeyboardInterrupt as stop:
        if isinstance(stop, Killed) or not best_so_far:
            raise
        stopped = True
    if not state.joint:
        return Found(starts[0], problem.sum(starts[0]), {}, stopped=stopped)
    return Found(state.best, problem.sum(starts[0]), dict(state.ranked), state.spent, stopped, starts[0])


def _starts(problem: Problem, most: int) -> list[Choices]:
    """The best of each family, then the least sums; one where none are to be measured."""
    found: list[Choices] = []
    for plan in chain(families(problem), solutions(problem)):
        if plan not in found:
            found.append(plan)
        if len(found) >= most:
            break
    return found


def _factors(problem: Problem, latest: Sequence[Judged]) -> list[float] | None:
    """What the guides are multiplied by: where none of the latest plans keeps the bounds, by what the nearest of them is
    over each; where all do and a cost is minimized, by the room of that which has least. None where they stay."""
    nearest = min(latest, key=lambda judged: judged.rank)
    if nearest.excess > 0:
        over = [(one.value, most) for one, most in nearest.bounds]
        if not all(math.isfinite(value) for value, _ in over):
            return [0.5] * len(over)
        return [most / value if value > most > 0 else 1.0 for value, most in over]
    if problem.choosing.cost is None or any(judged.excess for judged in latest):
        return None
    shares = [one.value / most for judged in latest for one, most in judged.bounds if most > 0 and one.value > 0]
    room = 1 / max(shares) if shares else 2.0
    return [min(room, 2.0)] * len(problem.guides) if room > 1.02 else None


class _State:
    def __init__(self, measure: MeasurePlans):
        self._measure = measure
        self.joint: dict[Key, Judged] = {}
        self.spent = 0.0

    @property
    def ranked(self) -> list[tuple[Key, Judged]]:
        return sorted(self.joint.items(), key=lambda item: (item[1].rank, item[0]))

    @property
    def best(self) -> Choices:
        return dict(self.ranked[0][0])

    def measure_all(self, plans: Sequence[Choices], rest: float) -> None:
        """On all of the text, of which `rest` is not measured yet."""
        for plan, found in zip(plans, self._measure(plans, 1.0) if plans else (), strict=True):
            self.joint[key_of(plan)] = found
        self.spent += rest * len(plans)

    def rough(self, plans: Sequence[Choices], share: float) -> list[tuple[float, float, float]]:
        """On a share of the text, where the first plan is measured already."""
        values = [found.rank for found in self._measure(plans, share)]
        self.spent += share * (len(plans) - 1)
        return values


def _neighbours(problem: Problem, best: Choices, known: Set[Key], random: Random) -> Iterator[Choices]:
    """Plans within the budgets that differ from the best in one layer or two, none of them known: by turns that with the
    least sum of those left, those first that the guides allow, and any."""
    moves = problem.moves(best)
    alone = [move for move in moves if len(move) == 1]
    pairs = [a | b for a, b in combinations(alone, 2) if a.keys() != b.keys()]
    moves += random.sample(pairs, min(len(pairs), len(moves)))
    unique = {key_of({**best, **move}): change for move, change in zip(moves, problem.changes(best, moves), strict=True)}
    beyond = {key: not problem.within_guides(dict(key)) for key in unique}
    left = [dict(key) for key in sorted(unique, key=lambda key: (beyond[key], unique[key])) if key not in known]
    while left:
        for place in (0, random.randrange(len(left))):
            if place < len(left):
                plan = left.pop(place)
                if not problem.broken(plan):
                    yield plan
