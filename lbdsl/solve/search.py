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

GUIDED, APART = 5, 1.02
"""How often, at most, plans of scaled guides are measured; and how near the scales are brought to each other of which one
keeps the bounds, and the other does not."""

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
    the budgets of costs. Where no start keeps the bounds of what is measured, or a plan has room to cost less, the guides
    are scaled, until their plans just keep them. Neighbours are measured on a `share` of the text. With `best_so_far` a
    KeyboardInterrupt in `measure`, if it is not `Killed`, ends it with the best plan: before any is measured, that with the
    least sum. Where the unchanged model keeps the budgets, nothing is measured."""
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
        guided = _scaled(problem, state, starts, tries) if problem.guides else problem
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


def _scaled(problem: Problem, state: _State, starts: Sequence[Choices], tries: int) -> Problem:
    """The problem with its guides scaled so that their best plans, as measured, just keep the bounds. While all scales keep
    them, or none does, the next is in proportion to what was measured; then it halves what lies between."""
    factors, latest, measured = [1.0] * len(problem.guides), starts, 0
    kept: list[float] | None = None
    over: list[float] | None = None
    for _ in range(2 * GUIDED):
        # The unchanged model, which some formats leave alone, keeps any bound.
        changed = [plan for plan in latest if plan != problem.plain or not problem.unchanged]
        nearest = min((state.joint[key_of(plan)] for plan in changed or latest), key=lambda judged: judged.rank)
        if nearest.excess:
            over = factors
        else:
            kept = factors
        if kept is not None and over is not None:
            if all(high <= APART * low for low, high in zip(kept, over, strict=True)):
                break
            factors = [math.sqrt(low * high) for low, high in zip(kept, over, strict=True)]
        else:
            step = _step(problem, nearest)
            if step is None:
                break
            factors = [factor * one for factor, one in zip(factors, step, strict=True)]
        left = (tries - state.spent) / 2
        plans = _starts(problem.guided(factors), max(1, min(STARTS, int(left / (GUIDED - measured + 1)))))
        new = [plan for plan in plans if key_of(plan) not in state.joint]
        if not plans or (new and (measured == GUIDED or len(new) > left)):
            break
        if new:
            state.measure_all(new, 1.0)
            measured += 1
        latest = plans
    return problem.guided(kept or factors)


def _step(problem: Problem, nearest: Judged) -> list[float] | None:
    """What the guides are multiplied by next: as much less as the nearest plan is over each bound, or, where it keeps them
    and a cost is minimized, as much more as it leaves. None where they stay; those of bounds that are not over 0 do."""
    over_0 = [most > 0 for _, most in nearest.bounds]
    shares = [one.value / most if positive else 1.0 for positive, (one, most) in zip(over_0, nearest.bounds, strict=True)]
    if nearest.excess:
        step = [1 / share if 1 < share < math.inf else 1.0 if share <= 1 else 0.5 for share in shares]
    else:
        room = min(2.0, 1 / max(1e-9, *shares)) if problem.choosing.cost is not None else 1.0
        step = [room if positive and room > APART else 1.0 for positive in over_0]
    return step if any(one != 1.0 for one in step) else None


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
