"""The best solutions of a `choose` by its scores, one after the other: an integer program, solved by HiGHS.

One binary variable for each alternative of a layer, one of them 1; budgets are linear rows. Two layers' pair term is linear
in a variable of its own. A solution that an exact budget refuses, or that was given before, is cut off.

Source: HiGHS, Huangfu and Hall, Mathematical Programming Computation 10 (2018).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, product
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, Label, error
from lbdsl.recipe.schema import ResolvedAssertion
from lbdsl.solve.choose import Barred, LayerOption, Limit, Problem, Role, engines_in, engines_of
from lbdsl.solve.evaluate import deciding, scores_in
from lbdsl.solve.table import Choices, Key, key_of

EXACT_PAIRS = 300
"""Pair terms that the integer program takes; with more it would run for minutes."""

STARTS, GAP = 8, 0.01
"""Solutions without pair terms from which those with many are looked for, and how much more than the least, relative, their
sums may be."""

MOST_REFUSED = 200
"""Solutions in a row that exact budgets refuse, before none is said to keep them."""


def solutions(problem: Problem, gap: float = 0.0) -> Iterator[Choices]:
    """Those that keep every budget, the least sum first. With many pair terms some of the best: those where no change of
    one layer, and no exchange between two, gives less, and those that are the best without pair terms. Each may be worse
    than the best that is left by a relative `gap`. Where the guides leave none, those that lose least."""
    if not problem.options:
        # The solver solves nothing without a variable.
        yield from () if problem.broken({}) else ({},)
        return
    if len(problem.pairs) > EXACT_PAIRS:
        starts = list(islice(solutions(replace(problem, pairs={}), GAP), STARTS))
        ends = {key_of(plan) for start in starts for plan in (start, _descended(problem, start))}
        yield from (dict(end) for end in sorted(ends, key=lambda end: (problem.sum(dict(end)), end)))
        return
    programs = [_Program(problem, barred, gap=gap) for barred in _ways(problem)]
    waiting = [(value, number, chosen) for number, program in enumerate(programs) for value, chosen in program.solved()]
    if not waiting and problem.guides:
        yield from solutions(replace(problem, scores=problem.lost, pairs={}, guides=()), gap)
        return
    heapq.heapify(waiting)
    given, refused = set(), 0
    while waiting and refused < MOST_REFUSED:
        _, number, chosen = heapq.heappop(waiting)
        key = key_of(chosen)
        if key not in given:
            given.add(key)
            if problem.broken(chosen):
                refused += 1
            else:
                refused = 0
                yield chosen
        programs[number].cut(chosen)
        for value, found in programs[number].solved():
            heapq.heappush(waiting, (value, number, found))


def families(problem: Problem) -> list[Choices]:
    """The best solution, and for each alternative the best among what some format of each engine has beside it, the least
    sum first. No change of a layer or two leads from one to the next: where a format has one window for all layers, all of
    them change at once."""
    role_of = {place: (problem.kind(place[0]), place[1]) for place in problem.places}
    ways = [({role for place, role in role_of.items() if place not in places}, pairs) for places, pairs in _ways(problem)]

    def together(one: Role, other: Role) -> bool:
        both = (one, other), (other, one)
        return one == other or any(roles.issuperset(both[0]) and pairs.isdisjoint(both) for roles, pairs in ways)

    asked = dict.fromkeys(role_of.values())
    apart = {frozenset(other for other in asked if not together(role, other)) for role in asked} | {frozenset[Role]()}
    found: dict[Key, Choices] = {}
    for left_out in apart:
        rest = problem.without({place for place, role in role_of.items() if role in left_out})
        for plan in islice(solutions(rest), 1) if all(rest.options.values()) else ():
            found[key_of(plan)] = plan
    return [found[key] for key in sorted(found, key=lambda key: (problem.sum(found[key]), key))]


def _descended(problem: Problem, chosen: Choices) -> Choices:
    """The best change of one layer or exchange between two that keeps the budgets, again and again."""
    while True:
        moves = problem.moves(chosen)
        found = sorted((change, number) for number, change in enumerate(problem.changes(chosen, moves)))
        better = (moves[number] for change, number in found if change < -1e-12)
        move = next((move for move in better if not problem.broken({**chosen, **move})), None)
        if move is None:
            return chosen
        chosen = {**chosen, **move}


def least_without(problem: Problem, number: int) -> float | None:
    """The least sum of scores if a budget, by its number, were left out."""
    others = tuple(budget for n, budget in enumerate(problem.choosing.budgets) if n != number)
    found = next(solutions(replace(problem, choosing=problem.choosing.replace(budgets=others))), None)
    return None if found is None else problem.sum(found)


def unmet(problem: Problem) -> Diagnostic:
    """LB356: why no plan keeps the budgets."""
    problem = replace(problem, pairs={}, guides=())
    budgets, found = problem.choosing.budgets, []
    limits: dict[tuple[int, int], Limit] = {}
    for limit in problem.priced[0]:
        limits.setdefault((limit.number, limit.part), limit)
    for limit in limits.values():
        budget = budgets[limit.number]
        programs = (_Program(problem, barred, without=limit) for barred in _ways(problem))
        plans = [plan for program in programs if (plan := program.nearest(limit)) is not None]
        nearest = max(plans, key=lambda plan: sum(limit.changes.get(place, 0.0) for place in plan.items()), default=None)
        shown = None if nearest is None else deciding(budget.expr, problem.world(nearest))
        if nearest is not None and shown is not None and limit.number in problem.broken(nearest):
            others = "" if len(budgets) == 1 else ", with all others kept"
            found.append((budget, f"`{budget.text}` cannot be met{others}: the nearest is that {shown}"))
    places, stuck = len(problem.options), _stuck(problem)
    if stuck is not None:
        budget, layer = stuck
        message = f"`{budget.text}` cannot be met: no format that it loads can express layer {layer} with any alternative"
        help = "make a plan of one of them without this budget: `lbdsl plan --target` says what is in the way"
        return error("LB356", message, budget.span, help=help)
    message = f"no plan was found that keeps all budgets of `choose` ({places} layers have a choice)"
    at, help = problem.choosing.span, "loosen one of them, or add alternatives that save more"
    if found:
        budget, message = found[0]
        at = budget.span
        help = (
            f"loosen it, or add alternatives that save more; {places} of {problem.case.facts.layers} layers have a choice"
        )
    loose = [other for n, other in enumerate(budgets) if other.span != at and least_without(problem, n) is not None]
    without = [f"`{other.text}`" for other in loose]
    for serves, lost in ((other, lost) for other in loose if (lost := unserved(problem, other))):
        scores = [scores_in(by)[0] for number in lost if (by := problem.choosing.scores[number]) is not None]
        said = " or ".join(f"`{score.action_text}`" for score in scores)
        near = f"; {message}" if found else ""
        message = f"no format that `{serves.text}` loads has {said}"
        helps = (f"without `{serves.text}` the others can be met{near}", "`lbdsl plan --target` says what a format lacks")
        labels = tuple(Label(score.span, "served by no format") for score in scores)
        return error("LB356", message, serves.span, help=helps, labels=labels)
    if not places:
        help = "earlier rules have taken what the alternatives would change: move `choose` before them"
    elif without:
        help = f"without {' or '.join(without)} it can be met; loosen one of them, or add alternatives that go with all"
    return error("LB356", message, at, help=help)


def _stuck(problem: Problem) -> tuple[ResolvedAssertion, int] | None:
    """A budget with an engine none of whose formats can express a layer, and that layer."""
    for engine in engines_of(problem.choosing):
        barred = [problem.barred(form)[0] for form in problem.forms.get(engine, ())]
        stuck = [[i for i, of in problem.options.items() if places.issuperset((i, n) for n in of)] for places in barred]
        if all(stuck):
            asks = next(budget for budget in problem.choosing.budgets if engine in engines_in(budget.expr))
            return asks, stuck[0][0] if stuck else next(iter(problem.options))
    return None


def unserved(problem: Problem, budget: ResolvedAssertion) -> tuple[int, ...]:
    """The alternatives, by number, that no format of an engine in the budget can express in any layer."""
    lost: set[int] = set()
    for engine in engines_in(budget.expr):
        barred = [problem.barred(form)[0] for form in problem.forms.get(engine, ())]
        for number, by in enumerate(problem.choosing.scores):
            role = {place for place in problem.places if place[1] == number}
            if by is not None and role and all(role <= places for places in barred):
                lost.add(number)
    return tuple(sorted(lost))


def _ways(problem: Problem) -> list[Barred]:
    """What is barred in each way to serve the model: one format for each engine."""
    forms = [problem.forms.get(engine, ()) for engine in engines_of(problem.choosing)]
    found: dict[Barred, None] = {}
    for way in product(*forms):
        each = [problem.barred(form) for form in way]
        places, pairs = (
            (frozenset().union(*part) for part in zip(*each, strict=True)) if each else (frozenset(), frozenset())
        )
        found[places, pairs] = None
    return list(found)


class _Program:
    """The integer program; variables are those of `problem.places`, in that order."""

    def __init__(self, problem: Problem, barred: Barred, *, gap: float = 0.0, without: Limit | None = None):
        import highspy

        self._highs = highspy.Highs()
        self._highs.silent()
        # Presolve calls some programs infeasible that are not (1.14 and 1.15), and these are small.
        own: dict[str, Any] = {"random_seed": 0, "threads": 1, "mip_rel_gap": gap, "mip_abs_gap": 0.0, "presolve": "off"}
        for name, value in own.items():
            self._highs.setOptionValue(name, value)
        self._types = highspy.HighsVarType
        self._optimal = highspy.HighsModelStatus.kOptimal
        self._inf = highspy.kHighsInf
        self._number = {place: number for number, place in enumerate(problem.places)}
        self._problem = problem
        limits, unknown = problem.priced
        places, pairs = barred
        # In units of the largest score, so that the solver's tolerance is small beside it.
        scores = (*problem.scores.values(), *problem.pairs.values())
        unit = max(map(abs, scores), default=0.0) or 1.0
        for place in problem.places:
            self._variable(problem.scores[place] / unit, 0.0 if place in places | unknown else 1.0)
        for layer, numbers in problem.options.items():
            self._row(1.0, 1.0, {(layer, number): 1.0 for number in numbers})
        kept = (
            limit for limit in limits if without is None or (limit.number, limit.part) != (without.number, without.part)
        )
        for limit in (*kept, *problem.guides):
            # In units of the largest change, so that the solver's tolerance is small beside a layer.
            scale = max((abs(change) for change in limit.changes.values()), default=0.0) or 1.0
            factors = {place: change / scale for place, change in limit.changes.items() if change}
            self._row(-limit.start / scale, self._inf, factors)
        self._conflicts(pairs)
        for (one, other), value in problem.pairs.items():
            self._pair(one, other, value / unit)

    def solved(self) -> list[tuple[float, Choices]]:
        """The least sum, and what is chosen for it; nothing if nothing is left."""
        self._highs.run()
        if self._highs.getModelStatus() != self._optimal:
            return []
        values = self._highs.getSolution().col_value
        chosen = {layer: number for (layer, number), column in self._number.items() if values[column] > 0.5}
        return [(self._problem.sum(chosen), chosen)]

    def cut(self, chosen: Choices) -> None:
        """Leave out what was found."""
        self._row(-self._inf, len(chosen) - 1.0, dict.fromkeys(chosen.items(), 1.0))

    def nearest(self, limit: Limit) -> Choices | None:
        """What comes nearest to a budget."""
        for place, column in self._number.items():
            self._highs.changeColCost(column, -limit.changes.get(place, 0.0))
        return next((chosen for _, chosen in self.solved()), None)

    def _variable(self, cost: float, most: float, *, integer: bool = True) -> int:
        kind = self._types.kInteger if integer else self._types.kContinuous
        return int(self._highs.addVariable(0.0, most, cost, kind).index)

    def _row(self, low: float, high: float, factors: Mapping[LayerOption, float]) -> None:
        self._columns(low, high, {self._number[place]: factor for place, factor in factors.items()})

    def _conflicts(self, pairs: frozenset[tuple[Role, Role]]) -> None:
        """Of two roles in conflict, only one is used anywhere."""
        used = {role: self._variable(0.0, 1.0) for role in sorted({role for pair in pairs for role in pair})}
        for (layer, number), column in self._number.items():
            role = self._problem.kind(layer), number
            if role in used:
                self._columns(-self._inf, 0.0, {column: 1.0, used[role]: -1.0})
        for one, other in sorted(pairs):
            self._columns(-self._inf, 1.0, {used[one]: 1.0, used[other]: 1.0})

    def _pair(self, one: LayerOption, other: LayerOption, value: float) -> None:
        both = self._variable(value, 1.0, integer=False)
        first, second = self._number[one], self._number[other]
        if value > 0:
            self._columns(-self._inf, 1.0, {first: 1.0, second: 1.0, both: -1.0})
        else:
            self._columns(-self._inf, 0.0, {both: 1.0, first: -1.0})
            self._columns(-self._inf, 0.0, {both: 1.0, second: -1.0})

    def _columns(self, low: float, high: float, factors: Mapping[int, float]) -> None:
        self._highs.addRow(low, high, len(factors), [*factors], [*factors.values()])
