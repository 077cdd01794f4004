"""What is known of rules' claims before anything is measured, and what is wrong with their actions."""

from __future__ import annotations

from dataclasses import dataclass

from lbdsl.actions.base import acts_on_weights, touching
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.evaluate import scores_in
from lbdsl.plan.layersets import fixed_members, ranked_sets
from lbdsl.plan.paths import Claimable, Paths, Wanted, claimable
from lbdsl.recipe.schema import (
    ElseSelector,
    LayersSelector,
    ModulesSelector,
    RankSelector,
    Recipe,
    Rule,
    Score,
    WhereSelector,
)


def action_conflicts(recipe: Recipe) -> tuple[Diagnostic, ...]:
    """Actions joined by `+` whose paths touch, and `modules` rules with actions on more than weights."""
    found = []
    for rule in recipe.rules:
        for place, action in enumerate(rule.actions):
            if isinstance(rule.selector, ModulesSelector) and not acts_on_weights(action):
                found.append(
                    error(
                        "LB216",
                        f"`{action.text()}` is not about the weights of modules",
                        recipe.span(rule),
                        help="choose whole layers: `layers SET` or `where CONDITION`",
                    )
                )
            other = next((earlier for earlier in rule.actions[:place] if touching(earlier, action)), None)
            if other is not None:
                found.append(
                    error(
                        "LB316",
                        f"`{other.text()}` and `{action.text()}` both change the {touching(other, action)} of a layer",
                        recipe.span(rule),
                        help="put them into rules of their own",
                    )
                )
    return tuple(found)


def scores_of(rule: Rule) -> tuple[Score, ...]:
    """Every score of a layer that a rule asks for, those of its ranked sets among them."""
    match rule.selector:
        case WhereSelector():
            return scores_in(rule.selector.where)
        case LayersSelector() | ModulesSelector():
            condition = scores_in(rule.selector.where) if rule.selector.where is not None else ()
            ranked = () if rule.selector.layers is None else ranked_sets(rule.selector.layers)
            return tuple(item.by for item in ranked) + condition
        case RankSelector():
            return (rule.selector.by,)
        case ElseSelector():
            return ()


@dataclass(frozen=True)
class Known:
    """What is sure of a rule before measuring. `domain`: the layers at which its condition or ranking is asked; the
    others are claimed by earlier rules whatever the scores are. A ranking that is not `of rest` asks at all layers.
    `open`: the layers of the domain of which it may take something."""

    wanted: tuple[Wanted, ...]
    domain: tuple[int, ...]
    open: tuple[int, ...]


def known_before_measuring(recipe: Recipe, facts: ModelFacts) -> tuple[Known, ...]:
    """For each rule in turn, its domain. Only rules whose layers are known narrow it, so it is the same for every set of
    scores."""
    return known_of(recipe, facts, claimable(recipe, facts))


def known_of(recipe: Recipe, facts: ModelFacts, claims: Claimable) -> tuple[Known, ...]:
    """The same, of claims that are known already."""
    # By layer: paths that are touched for sure, and those that may have been taken.
    sure, maybe = [0] * facts.layers, [0] * facts.layers
    found = []
    for rule, wanted in zip(recipe.rules, claims.wanted, strict=True):
        fixed = _static_layers(rule, facts)
        among = [i for i in range(facts.layers) if any(item.paths[i] for item in wanted)]

        match rule.selector:
            case RankSelector(of_rest=False, until=None):
                domain = tuple(among)
            case RankSelector():
                domain = tuple(i for i in among if not any(item.paths[i] & sure[i] for item in wanted))
            case _:
                among = [i for i in among if fixed is None or i in fixed]
                static = not scores_of(rule)
                domain = tuple(i for i in among if static or any(item.paths[i] & ~sure[i] for item in wanted))
        found.append(Known(wanted, domain, tuple(i for i in domain if any(item.takes(i, sure[i]) for item in wanted))))
        certain = isinstance(rule.selector, ElseSelector) or (
            isinstance(rule.selector, LayersSelector | ModulesSelector)
            and rule.selector.where is None
            and fixed is not None
        )
        for i in domain:
            for item in wanted:
                taken = item.takes(i, sure[i])
                if certain and (item.action.divisible or taken.bit_count() == 1):
                    sure[i] |= _surely_touched(claims.paths[i], taken, maybe[i])
                elif certain and not claims.paths[i].touched_by(taken) & maybe[i]:
                    sure[i] |= claims.paths[i].touched_by(taken)
                maybe[i] |= taken
    return tuple(found)


def _surely_touched(paths: Paths, taken: int, maybe: int) -> int:
    """What is touched when each path of `taken` is taken now, or was lost to an earlier claim, which may be any in
    `maybe`."""
    found = 0
    for number in paths.numbers(taken):
        touched = paths.touching[number]
        for other in paths.numbers(maybe & touched):
            touched &= paths.touching[other]
        found |= touched
    return found


def _static_layers(rule: Rule, facts: ModelFacts) -> frozenset[int] | None:
    """The layers of a rule's set; None where scores decide it, or the rule has no set."""
    if isinstance(rule.selector, ModulesSelector) and rule.selector.layers is None:
        return frozenset(range(facts.layers))
    if (
        not isinstance(rule.selector, LayersSelector | ModulesSelector)
        or rule.selector.layers is None
        or (ranked_sets(rule.selector.layers))
    ):
        return None
    return fixed_members(rule.selector.layers, facts.layers)


def fixed_layers(rule: Rule, facts: ModelFacts) -> frozenset[int] | None:
    """The layers that a rule matches for certain; None where scores or a condition decide."""
    selector = rule.selector
    if (
        not isinstance(selector, LayersSelector)
        or selector.where is not None
        or scores_of(rule)
        or ranked_sets(selector.layers)
    ):
        return None
    return fixed_members(selector.layers, facts.layers)
