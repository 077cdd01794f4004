"""Which layers each rule matches, as far as scores alone decide it. What depends on earlier claims is left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lbdsl.core.diagnostic import Diagnosed, Diagnostic
from lbdsl.core.measurement import Measurement, Request
from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.claims import Known, known_of
from lbdsl.plan.evaluate import World, holds, score_of, scores_in
from lbdsl.plan.layersets import members, ranked_sets
from lbdsl.plan.paths import Claimable, Wanted
from lbdsl.plan.words import ordinal, score_text
from lbdsl.recipe.schema import (
    AllLayers,
    ElseSelector,
    Expr,
    LayersSelector,
    ModulesSelector,
    Node,
    RankedSet,
    RankSelector,
    Recipe,
    Rule,
    Score,
    WhereSelector,
)
from lbdsl.syntax.lexer import one_line


@dataclass(frozen=True)
class Match:
    """One rule. `layers` is final for `layers`, `where` and a ranking over all layers; for a ranking of the rest it is
    every layer of its domain in the order of the ranking, of which the free ones count. None for `else`. `reasons` say
    why a layer is in, for a ranking of the rest without the place, which earlier claims decide."""

    wanted: tuple[Wanted, ...]
    layers: tuple[int, ...] | None
    reasons: tuple[tuple[int, str], ...] = ()


def match_rules(
    recipe: Recipe,
    facts: ModelFacts,
    claims: Claimable,
    measurements: Mapping[Request, Measurement],
) -> Diagnosed[tuple[Match, ...]]:
    """A `Match` for every rule; every missing or NaN score of the recipe is an error, each reported once."""
    world = World(recipe, facts, measurements=measurements)
    matches: list[Match | None] = []
    found: list[Diagnostic] = []
    for rule, known in zip(recipe.rules, known_of(recipe, facts, claims), strict=True):
        match, problems = _match(rule, known, world)
        matches.append(match)
        found += problems
    # One score may be asked for by several rules; once is enough to say that it is missing.
    once: dict[tuple[str, str], Diagnostic] = {}
    for problem in found:
        once.setdefault((problem.code, problem.message), problem)
    diagnostics = tuple(once.values())
    return Diagnosed(None if diagnostics else tuple(match for match in matches if match is not None), diagnostics)


def ranks_rest(selector: RankSelector) -> bool:
    """True when a ranking is over the layers not yet claimed: `of rest`, and always with `until`."""
    return selector.of_rest or selector.until is not None


def _match(rule: Rule, known: Known, world: World) -> Diagnosed[Match]:
    match rule.selector:
        case ElseSelector():
            return Diagnosed(Match(known.wanted, None))
        case WhereSelector(where=condition):
            return _filtered(known, condition, known.domain, world, _words(world.recipe, condition, "where"))
        case LayersSelector() | ModulesSelector():
            return _layers(rule.selector, known, world)
        case RankSelector():
            return _rank(rule.selector, known, world)


def _layers(selector: LayersSelector | ModulesSelector, known: Known, world: World) -> Diagnosed[Match]:
    problems: list[Diagnostic] = []
    chosen: dict[int, frozenset[int]] = {}
    layer_set = selector.layers if selector.layers is not None else AllLayers(selector.span)
    for ranked in ranked_sets(layer_set):
        order, found = _order(ranked.by, ranked.direction, tuple(range(world.facts.layers)), world)
        problems += found
        chosen[id(ranked)] = frozenset((order or ())[: ranked.amount.of(world.facts.layers)])
    if problems:
        return Diagnosed(None, tuple(problems))

    def ranking(ranked: RankedSet) -> frozenset[int]:
        return chosen[id(ranked)]

    layers = members(layer_set, world.facts.layers, ranking)
    layers &= frozenset(i for i in layers if any(item.paths[i] for item in known.wanted))
    said = _words(world.recipe, selector, "named by the rule")
    if selector.where is None:
        return Diagnosed(Match(known.wanted, tuple(sorted(layers)), tuple((i, said) for i in sorted(layers))))
    among = tuple(i for i in known.domain if i in layers)
    return _filtered(known, selector.where, among, world, said)


def _filtered(known: Known, condition: Expr, among: tuple[int, ...], world: World, said: str) -> Diagnosed[Match]:
    """The layers of `among` at which the condition holds."""
    layers: list[int] = []
    reasons: list[tuple[int, str]] = []
    problems: list[Diagnostic] = []
    for layer in among:
        here = replace(world, layer=layer)
        truth, found = holds(condition, here)
        problems += found
        if truth:
            values = {score.text: score_of(score, layer, world).value for score in scores_in(condition)}
            shown = ", ".join(f"{name} {score_text(value)}" for name, value in values.items() if value is not None)
            layers.append(layer)
            reasons.append((layer, f"{shown}: {said}" if shown else said))
    if problems:
        return Diagnosed(None, tuple(problems))
    return Diagnosed(Match(known.wanted, tuple(layers), tuple(reasons)))


def _rank(selector: RankSelector, known: Known, world: World) -> Diagnosed[Match]:
    order, found = _order(selector.by, selector.direction, known.domain, world)
    if order is None:
        return Diagnosed(None, found)
    reasons = []
    for place, layer in enumerate(order, start=1):
        value = score_of(selector.by, layer, world).value
        assert value is not None
        shown = f"{selector.by.text} {score_text(value)}"
        whole = f"{shown}: {ordinal(place)} {selector.direction} of {len(order)}"
        reasons.append((layer, shown if ranks_rest(selector) else whole))
    if not ranks_rest(selector):
        assert selector.amount is not None, "a ranking has an amount or an `until`"
        order = tuple(sorted(order[: selector.amount.of(world.facts.layers)]))
    return Diagnosed(Match(known.wanted, order, tuple(reasons)))


def _order(score: Score, direction: str, layers: tuple[int, ...], world: World) -> Diagnosed[tuple[int, ...]]:
    """`layers` from the lowest (or highest) score on; ties go to the lower index."""
    values: dict[int, float] = {}
    problems: list[Diagnostic] = []
    for layer in layers:
        value, found = score_of(score, layer, world)
        problems += found
        if value is not None:
            values[layer] = value
    if problems:
        return Diagnosed(None, tuple(problems))
    sign = 1 if direction == "lowest" else -1
    return Diagnosed(tuple(sorted(layers, key=lambda layer: (sign * values[layer], layer))))


def _words(recipe: Recipe, node: Node, otherwise: str) -> str:
    """The node's own text, on one line."""
    span = recipe.span(node)
    return one_line(span.text) if span is not None else otherwise
