"""What a `choose` can give its layers: alternatives, their scores and costs, and the budgets as sums over layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, LbdslError
from lbdsl.core.measurement import Measurement, Request, added
from lbdsl.core.units import Unit
from lbdsl.cost.cost import LayerCost, ModelCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import Expr, Items, walk
from lbdsl.layer.spec import LayerSpec
from lbdsl.recipe.schema import Choosing, Serves, Terms
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import World, evaluate, rooms, scores_in
from lbdsl.solve.match import Match
from lbdsl.solve.table import Choices
from lbdsl.solve.until import resolve

LayerOption = tuple[int, int]
"""A layer, and the number of an alternative."""

Role = tuple[int, int]
"""A kind of layer (`Problem.kind`), and the number of an alternative."""

Barred = tuple[frozenset[LayerOption], frozenset[tuple[Role, Role]]]
"""Places, and roles that no two layers may have."""

Form = Callable[[tuple[LayerSpec, ...]], bool]
"""Whether a model with these layers can be written in one format that an engine loads."""

Forms = Mapping[str, Sequence[Form]]
"""The formats of each engine."""


TIE = 1e-3
"""How much of the minimized cost, as a share of the base's, the whole of a bound is worth: of plans that cost about the
same, that which loses less."""


@dataclass(frozen=True)
class Judged:
    """What a plan is worth: `value` is minimized, `bounds` are what was measured for each bound, and how much it may be."""

    value: Measurement
    bounds: tuple[tuple[Measurement, float], ...] = ()

    @property
    def excess(self) -> float:
        """By how much it is over a bound, relative to it, at most; 0 if it keeps all."""
        over = [(one.value - most) / (abs(most) or 1.0) for one, most in self.bounds]
        return max([0.0, *over]) if all(map(math.isfinite, over)) else math.inf

    @property
    def within_errors(self) -> tuple[float, float]:
        """As `rank`, where a bound is kept by less than a standard error over it."""

        def least(one: Measurement) -> Measurement:
            return replace(one, value=one.value - one.stderr) if math.isfinite(one.stderr) else one

        return replace(self, bounds=tuple((least(one), most) for one, most in self.bounds)).rank[:2]

    @property
    def rank(self) -> tuple[float, float, float]:
        """A plan that keeps all bounds is before one that does not; then the nearest, or that with the least value; then
        that with most room. A broken model is the last."""
        value = self.value.value if math.isfinite(self.value.value) else math.inf
        return self.excess, value, max((one.value / (abs(most) or 1.0) for one, most in self.bounds), default=0.0)


@dataclass(frozen=True)
class Limit:
    """A budget as a sum: `start` + the change of each place that is chosen must be at least 0. `start` is for `plain`,
    whose changes are 0."""

    number: int
    start: float
    changes: Mapping[LayerOption, float]
    part: int = 0
    """Of the budget, of several that are joined by `and`."""


@dataclass(frozen=True)
class Problem:
    """options: the alternatives of each layer that has a choice. scores: what each of them does to the minimized metric
    alone, 0 for one that changes nothing; or what it saves of the minimized cost, as a share of the base's. pairs: what two
    of them, the lower layer first, do together beyond that. costs: of a layer with an alternative; `fixed`, of every layer
    without any. forms: of the engines in budgets. guides: the bounds, as if scores added up."""

    case: Case
    choosing: Choosing
    options: Mapping[int, tuple[int, ...]]
    scores: Mapping[LayerOption, float]
    costs: Mapping[LayerOption, LayerCost]
    fixed: tuple[LayerCost, ...]
    forms: Forms = field(default_factory=dict)
    pairs: Mapping[tuple[LayerOption, LayerOption], float] = field(default_factory=dict)
    guides: tuple[Limit, ...] = ()

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
        lost: list[dict[LayerOption, float]] = [{} for _ in choosing.bounds]
        for layer, numbers in options.items():
            problem = None
            for number in numbers:
                # What other rules make of the layer may not go with an alternative.
                try:
                    costs[layer, number] = LayerCost.of(tables[number].spec(facts, layer), facts)
                except LbdslError as caught:
                    problem = caught
                    continue
                by = choosing.scores[number]
                alone = {} if by is None else alone_of(by, layer, measurements)
                scores[layer, number] = weighted(choosing.minimized, alone) if alone else 0.0
                for bound, changes in zip(choosing.bounds, lost, strict=True):
                    changes[layer, number] = -weighted(bound.terms, alone) if alone else 0.0
            able = tuple(number for number in numbers if (layer, number) in costs)
            if problem is not None and not able:
                raise problem
            # The same of its weights; if they go with none, `select` says why.
            options[layer] = tuple(n for n in able if not _misfits(costs[layer, n].spec, facts)) or able
        fixed = tuple(LayerCost.of(left.spec(facts, layer), facts) for layer in range(facts.layers))
        options = {layer: numbers for layer, numbers in options.items() if numbers}
        gone = scores.keys() - {(layer, number) for layer, numbers in options.items() for number in numbers}
        guides = tuple(Limit(n, bound.most, lost[n]) for n, bound in enumerate(choosing.bounds))
        found = cls(case, choosing, options, scores, costs, fixed, forms, guides=guides).without(gone)
        world = found.world(found.plain)
        problems = tuple(d for budget in choosing.budgets for d in evaluate(budget.expr, world).diagnostics)
        return Diagnosed(None if problems else replace(found, scores=found.saved() or scores), problems)

    def saved(self) -> dict[LayerOption, float]:
        """What each place changes of the minimized cost, as a share of the base's; of those that cost the same, that which
        loses less is less. Nothing where a metric is minimized."""
        if self.choosing.cost is None:
            return {}
        plain, lost = self.price(self.plain), self.lost
        return {(i, n): self.price({**self.plain, i: n}) - plain + TIE * lost[i, n] for i, n in self.places}

    @cached_property
    def lost(self) -> dict[LayerOption, float]:
        """What each place loses of all bounds, each as a share of the bound."""
        most = [abs(bound.most) or 1.0 for bound in self.choosing.bounds]
        return {place: sum(-guide.changes[place] / most[guide.number] for guide in self.guides) for place in self.places}

    def guided(self, factors: Sequence[float]) -> Problem:
        """The same with each guide's bound times a factor."""
        guides = zip(self.guides, factors, strict=True)
        return replace(self, guides=tuple(replace(guide, start=guide.start * factor) for guide, factor in guides))

    def within_guides(self, chosen: Choices) -> bool:
        return all(guide.start + sum(guide.changes[place] for place in chosen.items()) >= 0 for guide in self.guides)

    def price(self, chosen: Choices) -> float:
        """The minimized cost, as a share of the base's."""
        assert self.choosing.cost is not None
        facts = self.case.facts
        base = ModelCost(facts, tuple(LayerCost.of(spec, facts) for spec in facts.layer_specs))
        whole = evaluate(self.choosing.cost, World(facts, cost=base)).unwrap()
        return float(evaluate(self.choosing.cost, self.world(chosen)).unwrap()) / float(whole or 1)

    def judged(self, chosen: Choices, measured: Mapping[str, Measurement]) -> Judged:
        """What a plan is worth by what was measured of it."""
        bounds = tuple(added([(w, measured[metric]) for w, metric in bound.terms]) for bound in self.choosing.bounds)
        if self.choosing.cost is None:
            value = added([(weight, measured[metric]) for weight, metric in self.choosing.minimized])
        else:
            value = Measurement(self.price(chosen), math.nan, Unit.RATIO, 0, 0)
        return Judged(value, tuple(zip(bounds, (bound.most for bound in self.choosing.bounds), strict=True)))

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

    def changes(self, chosen: Choices, moves: Sequence[Choices]) -> list[float]:
        """By how much each of `moves`, other alternatives for one layer or two, changes the sum."""
        number, pair_PP = self._matrix
        here = {layer: number[layer, option] for layer, option in chosen.items()}
        # Of each place: its score, and its pair terms with all that is chosen.
        felt = pair_PP[:, list(here.values())].sum(1)
        whole = {place: self.scores[place] + float(felt[at]) for place, at in number.items()}
        found = []
        for move in moves:
            change = sum(whole[place] - whole[place[0], chosen[place[0]]] for place in move.items())
            if self.pairs and len(move) == 2:
                (a, b), (c, d) = ((here[layer], number[layer, option]) for layer, option in move.items())
                change += float(pair_PP[b, d] - pair_PP[b, c] - pair_PP[a, d] + pair_PP[a, c])
            found.append(change)
        return found

    @cached_property
    def _matrix(self) -> tuple[Mapping[LayerOption, int], Any]:
        """The number of each place, and the pair terms of each two [places, places]."""
        import numpy as np

        number = {place: at for at, place in enumerate(self.places)}
        pair_PP = np.zeros((len(number), len(number)))
        for (one, other), value in self.pairs.items():
            pair_PP[number[one], number[other]] = pair_PP[number[other], number[one]] = value
        return number, pair_PP

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
    def places(self) -> tuple[LayerOption, ...]:
        return tuple((layer, number) for layer, numbers in self.options.items() for number in numbers)

    def without(self, places: Set[LayerOption]) -> Problem:
        """The same with fewer alternatives, which may leave a layer none."""
        options = {i: tuple(n for n in numbers if (i, n) not in places) for i, numbers in self.options.items()}
        pairs = {both: value for both, value in self.pairs.items() if places.isdisjoint(both)}
        guides = tuple(
            replace(guide, changes={place: change for place, change in guide.changes.items() if place not in places})
            for guide in self.guides
        )
        return replace(self, options=options, pairs=pairs, guides=guides)

    def moves(self, chosen: Choices) -> list[dict[int, int]]:
        """The changes of one layer, and the exchanges of two layers' alternatives, whatever the budgets."""
        found = [{layer: number} for layer, number in self.places if chosen[layer] != number]
        for one, other in combinations(self.options, 2):
            mine, theirs = chosen[one], chosen[other]
            if mine != theirs and theirs in self.options[one] and mine in self.options[other]:
                found.append({one: theirs, other: mine})
        return found

    @cached_property
    def priced(self) -> tuple[tuple[Limit, ...], frozenset[LayerOption]]:
        """The budgets, and parts of budgets, that are sums over layers; and the places with which one has no value, such as
        weights whose times no profile predicts. What is predicted must hold for the least and for the most that may be
        saved: each is a sum."""
        found, unknown = list[Limit](), set()
        worlds = (
            self._leaning(self.plain),
            {place: self._leaning({**self.plain, place[0]: place[1]}) for place in self.places},
        )
        for number, budget in enumerate(self.choosing.budgets):
            for end in (0, 1):
                starts = rooms(budget.expr, worlds[0][end])
                changes: list[dict[LayerOption, float]] = [{} for _ in starts]
                for place in self.places if starts else ():
                    there = rooms(budget.expr, worlds[1][place][end])
                    if not there:
                        unknown.add(place)
                    for part, (start, room) in enumerate(zip(starts, there, strict=False)):
                        changes[part][place] = room - start
                for part, (start, of) in enumerate(zip(starts, changes, strict=True)):
                    if (limit := Limit(number, start, of, part)) not in found:
                        found.append(limit)
        return tuple(found), frozenset(unknown)

    def _leaning(self, chosen: Choices) -> tuple[World, World]:
        """Where each predicted saving is the least that it may be, and where it is the most."""
        world = self.world(chosen)
        least, most = (
            replace(
                world,
                spread_base=True,
                profiles={
                    engine: replace(profile, saved={of: (ends[end], ends[end]) for of, ends in profile.saved.items()})
                    for engine, profile in world.profiles.items()
                },
            )
            for end in (0, 1)
        )
        return least, most

    def barred(self, form: Form) -> Barred:
        """What a format cannot express."""
        kinds = tuple(dict.fromkeys(self.kind(layer) for layer in self.options))
        roles = [(kind, n) for kind in kinds for n in range(len(self.choosing.alternatives))]

        def can(chosen: Choices) -> bool:
            return form(tuple(layer.spec for layer in self.cost(chosen).layers))

        # Some formats have one value for all layers, or all of a kind: what one cannot be alone, they may be together.
        alike = {(kind, n): [self._with(n, each) for each in {kinds, (kind,)}] for kind, n in roles}
        places = frozenset(
            (layer, n)
            for layer, n in self.places
            if not any(can({**rest, layer: n}) for rest in (self.plain, *alike[self.kind(layer), n]))
        )
        pairs = set()
        for one, other in combinations(roles, 2):
            found = self._two_layers(one, other, places)
            rests = (self.plain, *alike[one], *alike[other])
            if found is not None and not any(can({**rest, **found}) for rest in rests):
                pairs.add((one, other))
        return places, frozenset(pairs)

    def kind(self, layer: int) -> int:
        """The first layer that is the same in the base."""
        return self.case.facts.layer_specs.index(self.case.facts.layer_specs[layer])

    def _with(self, number: int, kinds: Collection[int]) -> Choices:
        """`plain`, and the alternative in all layers of some kinds."""
        found = dict(self.plain)
        return found | {i: number for i, numbers in self.options.items() if number in numbers and self.kind(i) in kinds}

    @cached_property
    def plain(self) -> Choices:
        """The alternative of each layer that changes least: one that changes nothing, where there is one."""
        unchanged = [n for n, score in enumerate(self.choosing.scores) if score is None]
        return {layer: next((n for n in unchanged if n in numbers), numbers[0]) for layer, numbers in self.options.items()}

    @property
    def unchanged(self) -> bool:
        """Whether `plain` changes nothing."""
        return all(self.choosing.scores[number] is None for number in self.plain.values())

    def _two_layers(self, one: Role, other: Role, barred: frozenset[LayerOption]) -> dict[int, int] | None:
        """Two layers in these roles."""
        first, second = (
            [i for i, n in self.places if (self.kind(i), n) == role and (i, n) not in barred] for role in (one, other)
        )
        two = next(((i, j) for i in first for j in reversed(second) if i != j), None)
        return None if two is None else {two[0]: one[1], two[1]: other[1]}


def alone_of(scores: Items, layer: int, measurements: Mapping[Request, Measurement]) -> dict[str, float]:
    """The scores of a layer by metric."""
    return {one.metric: measurements[Request(one.metric, one.action_text, layer)].value for one in scores_in(scores)}


def weighted(terms: Terms, alone: Mapping[str, float]) -> float:
    return sum(weight * alone[metric] for weight, metric in terms)


def engines_of(choosing: Choosing) -> tuple[str, ...]:
    """The engines that must serve the model."""
    return tuple(dict.fromkeys(engine for budget in choosing.budgets for engine in engines_in(budget.expr)))


def engines_in(expr: Expr) -> list[str]:
    return [part.engine for part in walk(expr) if isinstance(part, Serves)]


def _misfits(spec: LayerSpec, facts: ModelFacts) -> bool:
    """Whether a matrix of the layer cannot be stored as it says."""
    return any(storage.misfit(tensor) is not None for tensor, storage in spec.matrices(facts))
