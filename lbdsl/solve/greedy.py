"""One change after the other, until the budgets are kept: that with the least damage to the plan so far for what it saves.

A change's damage depends on those before it, so it is measured together with them; lazily: only while what was known of it
is less than what is known of the next. Source: lazy evaluation in greedy choices, Minoux, Optimization Techniques (1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from lbdsl.solve.choose import Judged, LayerOption, Limit, Problem
from lbdsl.solve.optimum import solutions
from lbdsl.solve.search import Found, MeasurePlans
from lbdsl.solve.table import Choices, key_of


def greedy(problem: Problem, measure: MeasurePlans, *, tries: int) -> Found | None:
    """The plan that it comes to; after `tries` measurements a change's damage is that last known. None if no plan keeps the
    budgets, or none of its changes leads to one."""
    least = next(solutions(problem), None)
    if least is None:
        return None
    plan, value, spent = problem.plain, 0.0, 0
    last: Judged | None = None
    if tries:
        # The other rules do damage, too. There is no bound beside a greedy choice: the second of a rank is its value.
        (last,) = measure([plan], 1.0)
        value, spent = last.rank[1], 1
    known = {place: problem.scores[place] for place in problem.places}
    while problem.broken(plan):
        waiting = [(known[place] / gain, place, gain) for place, gain in _useful(problem, plan)]
        heapq.heapify(waiting)
        tried: dict[LayerOption, Judged] = {}
        while waiting:
            _, place, gain = waiting[0]
            if place in tried or spent >= tries:
                break
            (tried[place],) = measure([{**plan, place[0]: place[1]}], 1.0)
            spent += 1
            known[place] = tried[place].rank[1] - value
            heapq.heapreplace(waiting, (known[place] / gain, place, gain))
        else:
            return None
        plan, last = {**plan, place[0]: place[1]}, tried.get(place)
        value = value + known[place] if last is None else last.rank[1]
        layer = place[0]
        known |= {(layer, other): problem.scores[layer, other] - problem.scores[place] for other in problem.options[layer]}
    joint = {} if last is None else {key_of(plan): last}
    return Found(plan, problem.sum(least), joint, float(spent))


def _useful(problem: Problem, plan: Choices) -> Iterator[tuple[LayerOption, float]]:
    """The changes of one layer that break no budget which is kept and bring the others nearer, and what they bring: of each
    budget the share of what is missing, as a sum."""
    limits, unknown = problem.priced
    # What is predicted has several sums, of which the least decides.
    least: dict[tuple[int, int], tuple[float, Limit]] = {}
    for limit in limits:
        room = limit.start + sum(limit.changes.get(place, 0.0) for place in plan.items())
        if (key := (limit.number, limit.part)) not in least or room < least[key][0]:
            least[key] = room, limit
    before = set(problem.broken(plan))
    for layer, number in problem.places:
        if plan[layer] == number or (layer, number) in unknown:
            continue
        gain = 0.0
        for room, limit in least.values():
            if room < 0:
                change = limit.changes.get((layer, number), 0.0) - limit.changes.get((layer, plan[layer]), 0.0)
                gain += min(change, -room) / -room
        if gain > 0 and before.issuperset(problem.broken({**plan, layer: number})):
            yield (layer, number), gain
