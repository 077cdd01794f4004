"""Which parts of a layer a rule's actions claim, and what is known of the claims before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lbdsl.actions import Action, Aspect
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.facts import ModelFacts
from lbdsl.plan.evaluate import scores_in
from lbdsl.plan.layersets import fixed_members, ranked_sets
from lbdsl.plan.modules import Module, Part, layer_modules, matched
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

Slot = Aspect | Part
"""What a rule can claim of a layer: its mixer, its ffn, and the weights of each of its modules."""


@dataclass(frozen=True)
class Wanted:
    """An action and the slots that it claims together. `divisible`: it may get some of them and not others.

    `at` gives the slots layer by layer where they differ: layers need not have the same modules, and a pattern need not
    match the same ones everywhere.
    """

    action: Action
    slots: tuple[Slot, ...]
    divisible: bool
    at: tuple[tuple[Slot, ...], ...] | None = None

    def of(self, layer: int) -> tuple[Slot, ...]:
        """The slots wanted of one layer."""
        return self.slots if self.at is None else self.at[layer]


def slots_of(recipe: Recipe, facts: ModelFacts) -> tuple[Slot, ...]:
    """The slots that a layer of this recipe has: mixer and ffn, and its modules where a rule acts on weights."""
    parts = (module.part for module in layer_modules(facts.modules)) if acts_on_weights(recipe) else ()
    return (Aspect.MIXER, Aspect.FFN, *(Part(name) for name in dict.fromkeys(parts)))


def acts_on_weights(recipe: Recipe) -> bool:
    return any(
        Aspect.WEIGHTS in action.aspects() or isinstance(rule.selector, ModulesSelector)
        for rule in recipe.rules
        for action in rule.actions
    )


def wanted_by(recipe: Recipe, facts: ModelFacts) -> tuple[tuple[Wanted, ...], ...]:
    """What the actions of each rule claim. `keep` claims every free slot; a block is mixer and ffn, both or neither."""
    slots = slots_of(recipe, facts)
    all_parts = _by_layer(layer_modules(facts.modules), facts) if acts_on_weights(recipe) else ((),) * facts.layers
    found = []
    for rule in recipe.rules:
        named = isinstance(rule.selector, ModulesSelector)
        parts = _by_layer(matched(rule.selector, facts), facts) if isinstance(rule.selector, ModulesSelector) else all_parts
        found.append(tuple(_wanted(action, slots, parts, named) for action in rule.actions))
    return tuple(found)


def _wanted(action: Action, slots: tuple[Slot, ...], parts: tuple[tuple[Slot, ...], ...], named: bool) -> Wanted:
    sub_blocks = tuple(slot for slot in slots if isinstance(slot, Aspect))
    on_weights = action.keeps or Aspect.WEIGHTS in action.aspects()
    if not action.keeps:
        aspects = set(action.aspects())
        if Aspect.BLOCK in aspects:
            aspects |= {Aspect.MIXER, Aspect.FFN}
        sub_blocks = tuple(slot for slot in sub_blocks if slot in aspects)
    elif named:
        sub_blocks = ()
    if not on_weights or len(slots) == 2:
        return Wanted(action, sub_blocks, divisible=action.keeps)
    everywhere = {slot for row in parts for slot in row}
    return Wanted(
        action,
        (*sub_blocks, *(slot for slot in slots if slot in everywhere)),
        divisible=True,
        at=tuple((*sub_blocks, *row) for row in parts),
    )


def _by_layer(modules: Iterable[Module], facts: ModelFacts) -> tuple[tuple[Slot, ...], ...]:
    """The modules of each layer as slots."""
    rows: list[list[Slot]] = [[] for _ in range(facts.layers)]
    for module in modules:
        rows[module.layer].append(Part(module.part))
    return tuple(tuple(row) for row in rows)


def action_conflicts(recipe: Recipe) -> tuple[Diagnostic, ...]:
    """Actions joined by `+` that act on one part of a layer, and `modules` rules with actions on more than weights."""
    found = []
    for rule in recipe.rules:
        taken: dict[Aspect, Action] = {}
        for action in rule.actions:
            aspects = _conflicting(action)
            if isinstance(rule.selector, ModulesSelector) and not action.keeps and aspects != {Aspect.WEIGHTS}:
                found.append(
                    error(
                        "LB216",
                        f"`{action.text()}` is not about the weights of modules",
                        recipe.span(rule),
                        help="choose whole layers: `layers SET` or `where CONDITION`",
                    )
                )
            other = next((taken[aspect] for aspect in sorted(aspects) if aspect in taken), None)
            if other is not None:
                alone = next((a for a in (other, action) if a.keeps or Aspect.BLOCK in a.aspects()), None)
                message = (
                    f"`{alone.text()}` combines with nothing"
                    if alone is not None
                    else f"`{other.text()}` and `{action.text()}` act on the same part of a layer"
                )
                found.append(error("LB316", message, recipe.span(rule), help="put them into rules of their own"))
            taken |= dict.fromkeys(aspects, action)
    return tuple(found)


def _conflicting(action: Action) -> frozenset[Aspect]:
    """The aspects that nothing beside this action may touch: `keep` and a dropped block leave nothing."""
    if action.keeps or Aspect.BLOCK in action.aspects():
        return frozenset({Aspect.MIXER, Aspect.FFN, Aspect.WEIGHTS})
    return action.aspects()


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
    `free`, of a rule whose action this version only plans: those of them where something that it wants is not sure to be
    claimed before."""

    wanted: tuple[Wanted, ...]
    domain: tuple[int, ...]
    free: tuple[int, ...]


def known_before_measuring(recipe: Recipe, facts: ModelFacts) -> tuple[Known, ...]:
    """For each rule in turn, its domain. Only static rules narrow it, so it is the same for every set of scores."""
    sure: set[tuple[int, Slot]] = set()
    known = []
    for rule, wanted in zip(recipe.rules, wanted_by(recipe, facts), strict=True):
        matched_layers = _static_layers(rule, facts)

        match rule.selector:
            case RankSelector(of_rest=False, until=None):
                domain = tuple(range(facts.layers))
            case RankSelector():
                domain = tuple(i for i in range(facts.layers) if not any(_claimed(wanted, i, sure)))
            case _:
                among = range(facts.layers) if matched_layers is None else sorted(matched_layers)
                static = not scores_of(rule)
                domain = tuple(
                    i for i in among if _has_modules(rule, wanted, i) and (static or not all(_claimed(wanted, i, sure)))
                )
        unbuilt = not all(action.carried_out for action in rule.actions)
        free = tuple(i for i in domain if not all(_claimed(wanted, i, sure))) if unbuilt else ()
        known.append(Known(wanted, domain, free))
        sure_rule = isinstance(rule.selector, ElseSelector) or (
            isinstance(rule.selector, LayersSelector | ModulesSelector)
            and rule.selector.where is None
            and matched_layers is not None
        )
        if sure_rule:
            # An indivisible action on several aspects may lose all of them to an earlier claim on one.
            sure |= {
                (i, slot)
                for i in domain
                for item in wanted
                if item.divisible or len(item.slots) == 1
                for slot in item.of(i)
            }
    return tuple(known)


def _claimed(wanted: tuple[Wanted, ...], layer: int, sure: set[tuple[int, Slot]]) -> Iterator[bool]:
    """Of each slot that is wanted of a layer, whether it is claimed for sure."""
    return ((layer, slot) in sure for item in wanted for slot in item.of(layer))


def _has_modules(rule: Rule, wanted: tuple[Wanted, ...], layer: int) -> bool:
    """False for a layer without a module that a `modules` rule names."""
    return not isinstance(rule.selector, ModulesSelector) or any(item.of(layer) for item in wanted)


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
