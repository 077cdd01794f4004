"""From the least sums of scores to the least joint value: scores of single layers do not add up, so the best plans are
measured as a whole, and layers then exchange their alternatives.

Source: EvoPress (arXiv 2410.14649): exchanges within a budget, many plans on little text, the best of them on all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain, combinations, islice
from random import Random

from lbdsl.core.processes import Killed
from lbdsl.solve.choose import Judged, Limit, Problem
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
"""How often, at most, plans of fitted guides are measured."""

MISFIT, UNKNOWN, FAR = 0.03, 0.1, 10.0
"""Of fitted losses: how far a joint value may be from their sum, relative to it or to the bound; how much of the bound a
layer may lose beside its score; and how many times the bound a joint value is taken for at most."""

EQUAL = 1e-5
"""Costs, as shares of the base's, that differ by less are the same."""

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
    the budgets of costs. Where a cost is minimized, plans between those that keep the bounds of what is measured and those
    that do not are measured; else the best of guides that are fitted to what was measured, and neighbours of the best plan
    on a `share` of the text. With `best_so_far` a
    KeyboardInterrupt in `measure`, if it is not `Killed`, ends it with the best plan: before any is measured, that with the
    least sum. Where the unchanged model keeps the budgets, nothing is measured."""
    if problem.unchanged and not problem.broken(problem.plain) and min(problem.scores.values(), default=0.0) >= 0:
        return Found(problem.plain, 0.0, {})
    by_cost = problem.choosing.cost is not None
    # Tries are left for plans of other costs, or of fitted guides.
    most = -(-tries // 3) if problem.guides else tries
    starts = families(problem)[:most] if by_cost else _starts(problem, min(STARTS, most))
    if not starts or not tries:
        return Found(starts[0], problem.sum(starts[0]), {}) if starts else None
    state, stopped = _State(measure), False
    random, idle = Random(seed), 0
    rejected: set[Key] = set()
    rest = 1 - share
    try:
        state.measure_all(starts, 1.0)
        if by_cost:
            _cheaper(problem, state, tries)
        guided = _guided(problem, state, tries) if problem.guides and not by_cost else problem
        while idle < PATIENCE and not by_cost:
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


def _guided(problem: Problem, state: _State, tries: int) -> Problem:
    """The problem with guides fitted to what was measured: their best plans are measured, a few at a time."""
    for left in range(GUIDED, 0, -1):
        plans = _starts(fitted(problem, state.joint), max(1, min(STARTS, int((tries - state.spent) / 2 / left))))
        new = [plan for plan in plans if key_of(plan) not in state.joint]
        if not new or len(new) > (tries - state.spent) / 2:
            break
        state.measure_all(new, 1.0)
    return fitted(problem, state.joint)


def _cheaper(problem: Problem, state: _State, tries: int) -> None:
    """Measure plans of less and less cost, of each cost that with the least loss by the fitted guides: halfway between what
    keeps the bounds and the next that does not; where nothing lies between, the next of less cost than what keeps them."""
    plain = problem.price(problem.plain)
    changes = {(i, n): problem.price({**problem.plain, i: n}) - plain for i, n in problem.places}

    def cost(plan: Choices) -> float:
        return plain + sum(changes[place] for place in plan.items())

    def least(by_loss: Problem, most: float) -> Choices | None:
        """Of the least loss, not measured yet, that costs at most so much."""
        costs = Limit(0, most - plain, {place: -change for place, change in changes.items()})
        best = solutions(replace(by_loss, guides=(costs,)))
        first = next(best, None)
        if first is None or cost(first) > most + EQUAL:
            return None
        moves = by_loss.moves(first)
        near = sorted(zip(by_loss.changes(first, moves), range(len(moves)), strict=True))
        # Of those near the best, which is known in the end, the program would take long to tell the next.
        plans = chain([first], ({**first, **moves[number]} for _, number in near), islice(best, STARTS))
        left = (plan for plan in plans if key_of(plan) not in state.joint and cost(plan) <= most + EQUAL)
        return next((plan for plan in left if not problem.broken(plan)), None)

    idle = 0
    while state.spent + 1 <= tries and idle < PATIENCE * PROPOSED:
        by_loss = replace(problem, scores=fitted(problem, state.joint).lost, pairs={})
        kept = not state.ranked[0][1].excess
        plan = least(by_loss, cost(state.best) - 2 * EQUAL if kept else math.inf)
        if plan is None:
            break
        # The last that may be measured is to keep them.
        if kept or state.spent + 2 <= tries:
            over = (cost(dict(key)) for key, judged in state.joint.items() if judged.excess)
            low = max((one for one in over if one < cost(plan)), default=0.0)
            middle = least(by_loss, (low + cost(plan)) / 2)
            plan = middle if middle is not None and cost(middle) > low + EQUAL else plan
        state.measure_all([plan], 1.0)
        idle = 0 if state.best == plan else idle + 1


def fitted(problem: Problem, joint: Mapping[Key, Judged]) -> Problem:
    """The problem with guides by what was measured: what each place loses is its score times one factor, corrected so that
    the sums come near the joint values (ridge regression), nearest where a bound is decided."""
    import numpy as np

    places = [place for place in problem.places if problem.choosing.scores[place[1]] is not None]
    chosen = [set(key) for key in joint]
    there_PL = np.array([[1.0, *(float(place in of) for place in places)] for of in chosen])
    guides = []
    for guide, bound in zip(problem.guides, problem.choosing.bounds, strict=True):
        most = abs(bound.most) or 1.0
        lost_P = np.array([judged.bounds[guide.number][0].value for judged in joint.values()])
        lost_P = np.nan_to_num(lost_P, nan=FAR * most).clip(-FAR * most, FAR * most)
        noise_P = (MISFIT * np.maximum(abs(lost_P), most)) ** 2
        scores_L = np.array([0.0, *(-guide.changes[place] for place in places)])
        if bound.most > 0:
            # Of what seems to gain, not more is expected than that it loses nothing.
            scores_L = scores_L.clip(0.0)
        sums_P = there_PL @ scores_L
        scores_L *= (sums_P * lost_P / noise_P).sum() / ((sums_P**2 / noise_P).sum() or 1.0)
        spread_L = (abs(scores_L) + UNKNOWN * most) ** 2
        rest_P = np.linalg.solve((there_PL * spread_L) @ there_PL.T + np.diag(noise_P), lost_P - there_PL @ scores_L)
        own, *lost_L = scores_L + spread_L * (there_PL.T @ rest_P)
        losses = dict(zip(places, (-float(lost) for lost in lost_L), strict=True))
        guides.append(replace(guide, start=bound.most - float(own), changes={**guide.changes, **losses}))
    return replace(problem, guides=tuple(guides))


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
