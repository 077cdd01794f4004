"""Which parts of a layer a rule's actions claim, and what is known of the claims before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

from lbdsl.actions import Action, Aspect
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.facts import ModelFacts
from lbdsl.plan.evaluate import scores_in
from lbdsl.plan.layersets import members, ranked_sets
from lbdsl.recipe.schema import (
    ElseSelector,
    LayersSelector,
    RankedSet,
    RankSelector,
    Recipe,
    Rule,
    Score,
    WhereSelector,
)


@dataclass(frozen=True)
class Wanted:
    """An action and the aspects that it claims together. `divisible`: it may get some of them and not others."""

    action: Action
    slots: tuple[Aspect, ...]
    divisible: bool


def slots_of(recipe: Recipe) -> tuple[Aspect, ...]:
    """The aspects that a layer of this recipe has: mixer and ffn, and weights where a rule acts on them."""
    with_weights = any(Aspect.WEIGHTS in action.aspects() for rule in recipe.rules for action in rule.actions)
    return (Aspect.MIXER, Aspect.FFN, *((Aspect.WEIGHTS,) if with_weights else ()))


def wanted_by(rule: Rule, slots: tuple[Aspect, ...]) -> tuple[Wanted, ...]:
    """What a rule's actions claim. `keep` claims every free aspect; a block is mixer and ffn, both or neither."""
    wanted = []
    for action in rule.actions:
        if action.keeps:
            wanted.append(Wanted(action, slots, divisible=True))
            continue
        aspects = set(action.aspects())
        if Aspect.BLOCK in aspects:
            aspects |= {Aspect.MIXER, Aspect.FFN}
        wanted.append(Wanted(action, tuple(slot for slot in slots if slot in aspects), divisible=False))
    return tuple(wanted)


def action_conflicts(recipe: Recipe) -> tuple[Diagnostic, ...]:
    """Actions joined by `+` that act on one aspect of a layer."""
    found = []
    slots = slots_of(recipe)
    for rule in recipe.rules:
        taken: dict[Aspect, Action] = {}
        for wanted in wanted_by(rule, slots):
            other = next((taken[slot] for slot in wanted.slots if slot in taken), None)
            if other is not None:
                alone = next((a for a in (other, wanted.action) if a.keeps), None)
                message = (f"`{alone.kind}` combines with nothing" if alone is not None else
                           f"`{other.text()}` and `{wanted.action.text()}` act on the same part of a layer")
                found.append(error("LB316", message, recipe.span(rule), help="put them into rules of their own"))
            taken |= dict.fromkeys(wanted.slots, wanted.action)
    return tuple(found)


def scores_of(rule: Rule) -> tuple[Score, ...]:
    """Every score of a layer that a rule asks for, those of its ranked sets among them."""
    match rule.selector:
        case WhereSelector():
            return scores_in(rule.selector.where)
        case LayersSelector():
            condition = scores_in(rule.selector.where) if rule.selector.where is not None else ()
            return tuple(ranked.by for ranked in ranked_sets(rule.selector.layers)) + condition
        case RankSelector():
            return (rule.selector.by,)
        case ElseSelector():
            return ()


@dataclass(frozen=True)
class Known:
    """What is sure of a rule before measuring. `domain`: the layers at which its condition or ranking is asked; the
    others are claimed by earlier rules whatever the scores are. A ranking that is not `of rest` asks at all layers."""

    wanted: tuple[Wanted, ...]
    domain: tuple[int, ...]


def known_before_measuring(recipe: Recipe, facts: ModelFacts) -> tuple[Known, ...]:
    """For each rule in turn, its domain. Only static rules narrow it, so it is the same for every set of scores."""
    slots = slots_of(recipe)
    sure: set[tuple[int, Aspect]] = set()
    known = []
    for rule in recipe.rules:
        wanted = wanted_by(rule, slots)
        asked = tuple(dict.fromkeys(slot for item in wanted for slot in item.slots))
        matched = _static_layers(rule, facts)
        match rule.selector:
            case RankSelector(of_rest=False, until=None):
                domain = tuple(range(facts.layers))
            case RankSelector():
                domain = tuple(i for i in range(facts.layers) if not any((i, slot) in sure for slot in asked))
            case _:
                among = range(facts.layers) if matched is None else sorted(matched)
                static = not scores_of(rule)
                domain = tuple(i for i in among if static or not all((i, slot) in sure for slot in asked))
        known.append(Known(wanted, domain))
        sure_rule = isinstance(rule.selector, ElseSelector) or (
            isinstance(rule.selector, LayersSelector) and rule.selector.where is None and matched is not None)
        if sure_rule:
            # An indivisible action on several aspects may lose all of them to an earlier claim on one.
            sure |= {(i, slot) for i in domain for item in wanted if item.divisible or len(item.slots) == 1
                     for slot in item.slots}
    return tuple(known)


def _static_layers(rule: Rule, facts: ModelFacts) -> frozenset[int] | None:
    """The layers of a `layers` rule's set; None where scores decide it, or the rule has no set."""
    if not isinstance(rule.selector, LayersSelector) or ranked_sets(rule.selector.layers):
        return None
    return members(rule.selector.layers, facts.layers, _no_ranking)


def _no_ranking(ranked: RankedSet) -> frozenset[int]:
    raise AssertionError("a set without ranked parts asks for no ranking")
