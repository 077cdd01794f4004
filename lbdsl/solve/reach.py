"""The least and the most of a cost that the rules of a recipe can reach, whatever the scores are. It is a bound: more
combinations of rules are taken to be possible than are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from operator import add, lt
from typing import NamedTuple

from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.cost import STATIC_VALUES, LayerCost, ModelCost
from lbdsl.layer.spec import LayerSpec
from lbdsl.recipe.schema import CostOf
from lbdsl.solve.case import Case, KnownRule, condition_of
from lbdsl.solve.table import Table

STATES = 500
"""The most combinations of rules of a layer, and of the numbers of layers that rules have taken, that are kept."""


class _Outcome(NamedTuple):
    """What a layer may become, where these rules, which take so many layers at most, take something of it."""

    spec: LayerSpec
    counted: frozenset[int]


class _Total(NamedTuple):
    """The sum of a cost over the first layers, the last of these and the total without it."""

    sum: int
    last: LayerCost | None = None
    before: _Total | None = None


def reach(case: Case) -> Reach | None:
    """None where the rules can do too many things to a layer, or an action cannot be used on one."""
    known: dict[tuple[object, ...], tuple[_Outcome, ...]] = {}
    found = []
    for layer, spec in enumerate(case.facts.layer_specs):
        ways = tuple(_ways(case, rule, layer) for rule in case.rules)
        # Identical layers with the same rules become the same.
        key = (spec, ways, tuple(tuple(item.paths[layer] for item in rule.wanted) for rule in case.rules))
        if key not in known:
            try:
                outcomes = _outcomes(case, layer, ways)
            except LbdslError:
                return None
            if outcomes is None:
                return None
            known[key] = outcomes
        found.append(known[key])
    return Reach(case, tuple(found))


class Reach(NamedTuple):
    """What each layer may become."""

    case: Case
    outcomes: tuple[tuple[_Outcome, ...], ...]

    def end(self, of: CostOf, *, most: bool) -> ModelCost:
        """The model of which the cost is the least, or the most."""
        facts, static, ctx = self.case.facts, STATIC_VALUES[of.name], of.ctx or 0
        sign, layer_cost = -1 if most else 1, cache(lambda spec: LayerCost.of(spec, facts))
        amounts = _amounts(self.case)
        if prod(amount.stop for amount in amounts.values()) > STATES:
            amounts = {}
        stops = [amount.stop for amount in amounts.values()]
        # The best of the layers so far, by how many of them each of these rules has.
        best = {tuple(0 for _ in amounts): _Total(0)}
        for outcomes in self.outcomes:
            # By which of these rules take the layer, the best that it may become.
            ways: dict[tuple[int, ...], tuple[int, LayerCost]] = {}
            for spec, counted in outcomes:
                way, cost = tuple(int(rule in counted) for rule in amounts), layer_cost(spec)
                value = sign * static.of(cost, ctx)
                if way not in ways or value < ways[way][0]:
                    ways[way] = value, cost
            found: dict[tuple[int, ...], _Total] = {}
            for counts, total in best.items():
                for way, (value, cost) in ways.items():
                    after = tuple(map(add, counts, way))
                    one = total.sum + value
                    if all(map(lt, after, stops)) and (after not in found or one < found[after].sum):
                        found[after] = _Total(one, cost, total)
            best = found
        exact = [
            total
            for counts, total in best.items()
            if all(n in amount for n, amount in zip(counts, amounts.values(), strict=True))
        ]
        last = min(exact or best.values(), key=lambda each: each.sum)
        layers: list[LayerCost] = []
        while last.last is not None and last.before is not None:
            layers.append(last.last)
            last = last.before
        return ModelCost(facts, tuple(reversed(layers)))


def _amounts(case: Case) -> Mapping[int, range]:
    """How many layers a rule with an amount may take, by its index: as many as it says, if scores decide of no rule before
    it, and at most as many else."""
    found, sure = {}, True
    for index, known in enumerate(case.rules):
        ranking = known.ranking
        if ranking is not None and ranking.amount is not None:
            most = ranking.amount.of(case.facts.layers)
            exact = sure and known.until is None and known.while_ is None and known.domain == known.open
            found[index] = range(min(most, len(known.open)) if exact else 0, most + 1)
        sure = sure and all(None not in way or way == (None,) for way in (_ways(case, known, i) for i in known.domain))
    return found


def _ways(case: Case, known: KnownRule, layer: int) -> tuple[int | None, ...]:
    """What a rule may do to a layer: nothing (None), or its alternative of this number."""
    if known.choosing is not None:
        can = (number for number, layers in enumerate(case.possible) if layer in layers)
        return None, *(can if layer in known.domain else ())
    if known.is_else:
        return (0,)
    if known.named is not None and layer not in known.named:
        return (None,)
    return (0,) if known.named is not None and condition_of(known.rule) is None else (None, 0)


def _outcomes(case: Case, layer: int, ways: tuple[tuple[int | None, ...], ...]) -> tuple[_Outcome, ...] | None:
    tables = [Table.empty(case.paths)]
    for known, options in zip(case.rules, ways, strict=True):
        made = (
            table.take(known, () if option is None else (layer,), chosen={} if option is None else {layer: option})
            for table in tables
            for option in options
        )
        tables = list({table.takes[layer]: table for table in made}.values())
        if len(tables) > STATES:
            return None
    counted = set(_amounts(case))
    found = (
        _Outcome(table.spec(case.facts, layer), frozenset({take.rule for take in table.takes[layer]} & counted))
        for table in tables
    )
    return tuple(dict.fromkeys(found))
