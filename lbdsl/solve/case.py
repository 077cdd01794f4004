"""A recipe on a model: what is known about its rules before measuring, and what must be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lbdsl.actions import Action
from lbdsl.core.measurement import Request
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import ElseSelector, Expr, LayerSet, LayersSelector, ModulesSelector, RankSelector, WhereSelector
from lbdsl.layer.paths import Paths, union
from lbdsl.layer.weights import Stat, stats_in
from lbdsl.recipe.schema import Choosing, CostOf, PredictedOf, Recipe, Rule, Score
from lbdsl.recipe.types import walk
from lbdsl.solve.claims import Wanted, claimable
from lbdsl.solve.evaluate import scores_in
from lbdsl.solve.layersets import members, ranked_sets


def layer_set_of(rule: Rule) -> LayerSet | None:
    """The set that a `layers` or `modules` rule, or `choose`, names."""
    return rule.selector.layers if isinstance(rule.selector, LayersSelector | ModulesSelector | Choosing) else None


def condition_of(rule: Rule) -> Expr | None:
    """What follows `where`."""
    return rule.selector.where if isinstance(rule.selector, LayersSelector | ModulesSelector | WhereSelector) else None


def costs_asked(recipe: Recipe) -> Iterator[CostOf]:
    """The costs in a recipe's asserts and budgets."""
    nodes = (*recipe.asserts, *recipe.requires, *recipe.rules)
    yield from (part for node in nodes for part in walk(node) if isinstance(part, CostOf))


def metrics_asked(recipe: Recipe) -> frozenset[str]:
    """The metrics of layers and of the whole changed model that a recipe needs."""
    nodes = (*recipe.asserts, *recipe.requires, *recipe.rules)
    return frozenset(part.metric for node in nodes for part in walk(node) if isinstance(part, Score))


def predictions_asked(recipe: Recipe) -> dict[str, list[PredictedOf]]:
    """The predicted values among them, by engine."""
    asked: dict[str, list[PredictedOf]] = {}
    for value in costs_asked(recipe):
        if isinstance(value, PredictedOf):
            asked.setdefault(value.engine, []).append(value)
    return asked


@dataclass(frozen=True)
class KnownRule:
    """What is certain about a rule before measuring.

    wanted: its actions, with the paths that each claims
    paths:  all paths that it claims, by layer
    named:  the layers of its set; None if scores decide them, or if the rule has no set
    domain: the layers on which its condition or ranking is evaluated; earlier rules claim the others, whatever the scores
            are. A ranking without `of rest` is evaluated on all layers
    open:   the layers of the domain in which it may take something
    """

    rule: Rule
    wanted: tuple[Wanted, ...]
    paths: tuple[int, ...]
    named: frozenset[int] | None
    domain: tuple[int, ...] = ()
    open: tuple[int, ...] = ()

    @property
    def is_else(self) -> bool:
        return isinstance(self.rule.selector, ElseSelector)

    @property
    def fixed(self) -> frozenset[int] | None:
        """The layers that a `layers` rule matches for certain."""
        return self.named if isinstance(self.rule.selector, LayersSelector) and condition_of(self.rule) is None else None

    @property
    def ranking(self) -> RankSelector | None:
        return self.rule.selector if isinstance(self.rule.selector, RankSelector) else None

    @property
    def choosing(self) -> Choosing | None:
        return self.rule.selector if isinstance(self.rule.selector, Choosing) else None

    @property
    def until(self) -> Expr | None:
        return self.ranking.until if self.ranking is not None else None

    @property
    def while_(self) -> Expr | None:
        return self.ranking.while_ if self.ranking is not None else None

    @property
    def ranks_rest(self) -> bool:
        """True for a ranking of the layers not yet claimed: `of rest`, and always with `until` or `while`."""
        bounded = self.until is not None or self.while_ is not None
        return self.ranking is not None and (self.ranking.of_rest or bounded)

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        return scores_in(self.rule.selector)

    def asks(self, touched: int, free: int) -> bool:
        """Whether it is evaluated on a layer. Of its claimed paths, `touched` are certainly touched, `free` are not."""
        if self.choosing is not None:
            return not touched
        if self.ranking is None:
            return bool(free) or not self.scores
        return not touched or not self.ranks_rest


@dataclass(frozen=True)
class Case:
    """A recipe and its model. What follows from these alone is computed once, on first use; layers, patterns and actions
    must fit the model (see `check_recipe`)."""

    recipe: Recipe
    facts: ModelFacts

    @cached_property
    def _claimable(self) -> tuple[tuple[Paths, ...], tuple[tuple[Wanted, ...], ...]]:
        return claimable(self.recipe, self.facts)

    @property
    def paths(self) -> tuple[Paths, ...]:
        """The paths of each layer."""
        return self._claimable[0]

    @cached_property
    def rules(self) -> tuple[KnownRule, ...]:
        """The rules in order. Only rules whose layers are known narrow the domains of later ones, so the domains do not
        depend on scores."""
        # By layer: paths that are certainly touched, and those that may have been taken.
        sure, maybe = [0] * self.facts.layers, [0] * self.facts.layers
        found = []
        for rule, wanted in zip(self.recipe.rules, self._claimable[1], strict=True):
            # A `keep` among alternatives claims what the others would change, and nothing of its own.
            claiming = [item for item in wanted if not (isinstance(rule.selector, Choosing) and item.action.keeps)]
            paths = tuple(union(item.paths[i] for item in claiming) for i in range(self.facts.layers))
            known = KnownRule(rule, wanted, paths, self._named(rule))
            may_claim = (i for i in (range(self.facts.layers) if known.named is None else known.named) if paths[i])
            domain = tuple(i for i in sorted(may_claim) if known.asks(paths[i] & sure[i], paths[i] & ~sure[i]))
            opened = tuple(i for i in domain if any(item.takes(i, sure[i]) for item in wanted))
            found.append(replace(known, domain=domain, open=opened))
            decided = known.choosing is None and condition_of(rule) is None
            certain = known.is_else or (known.named is not None and decided)
            for i in domain:
                for item in wanted:
                    taken = item.takes(i, sure[i])
                    if certain:
                        sure[i] |= self._surely_touched(i, item.action, taken, maybe[i])
                    maybe[i] |= taken
        return tuple(found)

    def _named(self, rule: Rule) -> frozenset[int] | None:
        layer_set = layer_set_of(rule)
        if layer_set is None:
            return frozenset(range(self.facts.layers)) if isinstance(rule.selector, ModulesSelector) else None
        return None if ranked_sets(layer_set) else members(layer_set, self.facts.layers)

    def _surely_touched(self, layer: int, action: Action, taken: int, maybe: int) -> int:
        """The paths that are certainly touched if each path of `taken` is taken now, or was lost to any earlier claim in
        `maybe`."""
        paths = self.paths[layer]
        if not action.divisible and taken.bit_count() != 1:
            touched = paths.touched_by(taken)
            return touched if not touched & maybe else 0
        found = 0
        for number in paths.numbers(taken):
            touched = paths.touching[number]
            for other in paths.numbers(maybe & touched):
                touched &= paths.touching[other]
            found |= touched
        return found

    @cached_property
    def scores(self) -> tuple[tuple[Score, tuple[int, ...]], ...]:
        """Every score that a rule may need, and on which layers. A layer that earlier rules certainly claim needs no score
        for a later condition or ranking of the rest; a ranked set and a ranking without `of rest` need all layers."""
        found: list[tuple[Score, tuple[int, ...]]] = []
        for known in self.rules:
            ranked = ranked_sets(layer_set_of(known.rule))
            found += [(item.by, tuple(range(self.facts.layers))) for item in ranked]
            if known.choosing is None:
                found += [(score, known.domain) for score in known.scores[len(ranked) :]]
                continue
            pairs = zip(known.choosing.scores, self.possible, strict=True)
            found += [(score, tuple(sorted(layers))) for score, layers in pairs if score is not None]
        return tuple(found)

    @cached_property
    def choose(self) -> KnownRule | None:
        """The `choose` of the recipe."""
        return next((known for known in self.rules if known.choosing is not None), None)

    @cached_property
    def possible(self) -> tuple[frozenset[int], ...]:
        """For each alternative of the `choose`, the layers that have what it changes."""
        if self.choose is None or self.choose.choosing is None:
            return ()
        domain = self.choose.domain
        actions = (score.action if score is not None else None for score in self.choose.choosing.scores)
        return tuple(frozenset(i for i in domain if a is None or a.under(self.facts, i) is not None) for a in actions)

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """The (metric, action, layer) of all scores, without duplicates."""
        found = (Request(score.metric, score.action_text, layer) for score, layers in self.scores for layer in layers)
        return tuple(dict.fromkeys(found))

    @cached_property
    def screened(self) -> frozenset[Request]:
        """Those requests that a screen estimates: all of a `choose` that no other rule needs."""
        if self.recipe.measure.strategy != "screen" or self.choose is None or self.choose.choosing is None:
            return frozenset()
        others = {
            Request(score.metric, score.action_text, layer)
            for known in self.rules
            if known.choosing is None
            for score in known.scores
            for layer in range(self.facts.layers)
        }
        pairs = zip(self.choose.choosing.scores, self.possible, strict=True)
        found = {
            Request(score.metric, score.action_text, layer)
            for score, layers in pairs
            if score is not None
            for layer in layers
        }
        return frozenset(found - others)

    @property
    def score_actions(self) -> Mapping[str, Action]:
        """The actions of all scores, by text."""
        return {score.action_text: score.action for score, _ in self.scores if score.action is not None}

    def statistics(self, *, planned: bool = True) -> dict[int, tuple[Stat, ...]]:
        """The statistics, by layer, that scores may need to compute new weights; with `planned`, also those for rules."""
        asked = [(score.action, layer) for score, layers in self.scores for layer in layers if score.action is not None]
        if planned:
            asked += [(action, layer) for known in self.rules for action in known.rule.actions for layer in known.open]
        found: dict[int, tuple[Stat, ...]] = {}
        for action, layer in dict.fromkeys(asked):
            change = action.under(self.facts, layer)
            stats = stats_in(expr for _, expr in change.weights) if change is not None else ()
            if stats:
                found[layer] = tuple(dict.fromkeys((*found.get(layer, ()), *stats)))
        return found
