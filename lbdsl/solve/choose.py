"""What a `choose` can give its layers: alternatives, their scores and costs, and the budgets as sums over layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.core.measurement import Measurement, Request
from lbdsl.layer.cost import LayerCost, ModelCost
from lbdsl.layer.spec import LayerSpec
from lbdsl.recipe.schema import Choosing, Serves
from lbdsl.recipe.types import walk
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import World, evaluate, rooms
from lbdsl.solve.match import Match
from lbdsl.solve.table import Choices
from lbdsl.solve.until import resolve

Place = tuple[int, int]
"""A layer, and the number of an alternative."""

Form = Callable[[tuple[LayerSpec, ...]], bool]
"""Whether a model with these layers can be written in one format that an engine loads."""

Forms = Mapping[str, Sequence[Form]]
"""The formats of each engine."""


@dataclass(frozen=True)
class Limit:
    """A budget as a sum: `start` + the change of each place that is chosen must be at least 0. `start` is for `plain`,
    whose changes are 0."""

    number: int
    start: float
    changes: Mapping[Place, float]


@dataclass(frozen=True)
class Problem:
    """options: the alternatives of each layer that has a choice. scores: what each of them does to the minimized metric
    alone, 0 for one that changes nothing. pairs: what two of them, the lower layer first, do together beyond that. costs:
    of a layer with an alternative; `fixed`, of every layer without any. forms: of the engines in budgets."""

    case: Case
    choosing: Choosing
    options: Mapping[int, tuple[int, ...]]
    scores: Mapping[Place, float]
    costs: Mapping[Place, LayerCost]
    fixed: tuple[LayerCost, ...]
    forms: Forms = field(default_factory=dict)
    pairs: Mapping[tuple[Place, Place], float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, case: Case, matches: tuple[Match, ...], measurements: Mapping[Request, Measurement], forms: Forms
    ) -> Diagnosed[Problem]:
        """The matches are without errors. Errors: budgets that have no value, and those of `resolve`."""
        known = case.choose
        assert known is not None, "a recipe without `choose` has nothing to choose"
        assert known.choosing is not None
        choosing, facts = known.choosing, case.facts
        tables = []
        for number in range(len(choosing.alternatives)):
            table, problems = resolve(case, matches, dict.fromkeys(known.domain, number))
            if table is None:
                return Diagnosed(None, problems)
            tables.append(table)
        left, problems = resolve(case, matches)
        if left is None:
            return Diagnosed(None, problems)
        free = tables[0].rules[known.rule.number - 1].claims
        options = {i: tuple(a for a, layers in enumerate(case.possible) if i in layers) for i in free}
        scores, costs = {}, {}
        for layer, numbers in options.items():
            for number in numbers:
                score = choosing.scores[number]
                value = 0.0
                if score is not None:
                    value = measurements[Request(score.metric, score.action_text, layer)].value
                scores[layer, number] = value
                costs[layer, number] = LayerCost.of(tables[number].spec(facts, layer), facts)
        fixed = tuple(LayerCost.of(left.spec(facts, layer), facts) for layer in range(facts.layers))
        options = {layer: numbers for layer, numbers in options.items() if numbers}
        found = cls(case, choosing, options, scores, costs, fixed, forms)
        world = found.world(found.plain)
        problems = tuple(d for budget in choosing.budgets for d in evaluate(budget.expr, world).diagnostics)
        return Diagnosed(None if problems else found, problems)

    def cost(self, chosen: Choices) -> ModelCost:
        """Of the whole model."""
        layers = list(self.fixed)
        for layer, number in chosen.items():
            layers[layer] = self.costs[layer, number]
        return ModelCost(self.case.facts, tuple(layers))

    def sum(self, chosen: Choices) -> float:
        """The sum of the scores of single layers, with the pair terms."""
        alone = sum(self.scores[place] for place in chosen.items())
        if not self.pairs:
            return alone
        return alone + sum(self.pairs.get(both, 0.0) for both in combinations(sorted(chosen.items()), 2))

    def change(self, chosen: Choices, move: Choices) -> float:
        """The change of the sum when some layers get other alternatives."""
        after = {**chosen, **move}
        found = sum(self.scores[layer, move[layer]] - self.scores[layer, chosen[layer]] for layer in move)
        if self.pairs:
            for layer in move:
                for other in chosen:
                    # Two layers that both change are one pair.
                    if other != layer and not (other in move and other < layer):
                        found += self._pair(after, layer, other) - self._pair(chosen, layer, other)
        return found

    def _pair(self, chosen: Choices, one: int, other: int) -> float:
        low, high = sorted((one, other))
        return self.pairs.get(((low, chosen[low]), (high, chosen[high])), 0.0)

    def world(self, chosen: Choices) -> World:
        return World(self.case.facts, cost=self.cost(chosen), profiles=self.case.recipe.profiles, serves=self._serves)

    def _serves(self, engine: str, cost: ModelCost) -> bool:
        specs = tuple(layer.spec for layer in cost.layers)
        return any(form(specs) for form in self.forms.get(engine, ()))

    def broken(self, chosen: Choices) -> tuple[int, ...]:
        """The numbers of the budgets that it does not keep."""
        world = self.world(chosen)
        return tuple(n for n, budget in enumerate(self.choosing.budgets) if not evaluate(budget.expr, world).value)

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple((layer, number) for layer, numbers in self.options.items() for number in numbers)

    def moves(self, chosen: Choices) -> list[dict[int, int]]:
        """The changes of one layer, and the exchanges of two layers' alternatives, whatever the budgets."""
        found = [{layer: number} for layer, number in self.places if chosen[layer] != number]
        for one, other in combinations(self.options, 2):
            mine, theirs = chosen[one], chosen[other]
            if mine != theirs and theirs in self.options[one] and mine in self.options[other]:
                found.append({one: theirs, other: mine})
        return found

    @cached_property
    def priced(self) -> tuple[tuple[Limit, ...], frozenset[Place]]:
        """The budgets, and parts of budgets, that are sums over layers; and the places with which one has no value, such as
        weights whose times no profile predicts."""
        found, unknown = [], set()
        for number, budget in enumerate(self.choosing.budgets):
            starts = rooms(budget.expr, self.world(self.plain))
            changes: list[dict[Place, float]] = [{} for _ in starts]
            for layer, option in self.places if starts else ():
                there = rooms(budget.expr, self.world({**self.plain, layer: option}))
                if not there:
                    unknown.add((layer, option))
                for part, (start, room) in enumerate(zip(starts, there, strict=False)):
                    changes[part][layer, option] = room - start
            found += [Limit(number, start, part) for start, part in zip(starts, changes, strict=True)]
        return tuple(found), frozenset(unknown)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that must serve the model."""
        parts = (part for budget in self.choosing.budgets for part in walk(budget.expr))
        return tuple(dict.fromkeys(part.engine for part in parts if isinstance(part, Serves)))

    def barred(self, form: Form) -> tuple[frozenset[Place], frozenset[tuple[int, int]]]:
        """What a format cannot express: places alone, and pairs of alternatives in two layers."""
        among = range(len(self.choosing.alternatives))

        def can(chosen: Choices) -> bool:
            return form(tuple(layer.spec for layer in self.cost(chosen).layers))

        # Some formats have one value for all layers: what a layer cannot be alone, all may be together.
        alike = [
            {layer: n if n in numbers else self.plain[layer] for layer, numbers in self.options.items()} for n in among
        ]
        places = frozenset(
            (layer, a) for layer, a in self.places if not can({**self.plain, layer: a}) and not can({**alike[a], layer: a})
        )
        pairs = set()
        for one, other in combinations(among, 2):
            found = self._two_layers(one, other, places)
            if found is not None and not any(can({**rest, **found}) for rest in (self.plain, alike[one], alike[other])):
                pairs.add((one, other))
        return places, frozenset(pairs)

    @cached_property
    def plain(self) -> Choices:
        """The alternative of each layer that changes least: one that changes nothing, where there is one."""
        unchanged = [n for n, score in enumerate(self.choosing.scores) if score is None]
        return {layer: next((n for n in unchanged if n in numbers), numbers[0]) for layer, numbers in self.options.items()}

    def _two_layers(self, one: int, other: int, barred: frozenset[Place]) -> dict[int, int] | None:
        """Two layers that can have these alternatives."""
        for first, numbers in self.options.items():
            if one in numbers and (first, one) not in barred:
                for second, others in reversed(tuple(self.options.items())):
                    if second != first and other in others and (second, other) not in barred:
                        return {first: one, second: other}
        return None
