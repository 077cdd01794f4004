"""LB215 of rules: actions that this version plans and does not carry out, before and after the selection. Pure."""

from __future__ import annotations

from dataclasses import replace

from lbdsl.core.diagnostic import Diagnostic, Severity
from lbdsl.layer.facts import ModelFacts
from lbdsl.parts import Slot
from lbdsl.plan.check import no_engine
from lbdsl.plan.claims import known_before_measuring
from lbdsl.plan.select import Selection
from lbdsl.plan.words import plural
from lbdsl.recipe.schema import RankSelector, Recipe, Rule


def unbuilt_chosen(recipe: Recipe, facts: ModelFacts, selection: Selection) -> list[Diagnostic]:
    """Errors for the rules that got layers or modules for such an action; of parts that are gone nothing counts."""
    modules: dict[int, int] = {}
    for layer in selection.layers:
        unbuilt = [item for item in layer.taken if not item.action.carried_out]
        maps = layer.spec.linear_maps(facts) if unbuilt else ()
        for item in unbuilt:
            left = sum(f"{Slot.WEIGHTS}.{module}" in item.paths for module in maps)
            if left or not all(path.startswith(Slot.WEIGHTS) for path in item.paths):
                modules[item.rule] = modules.get(item.rule, 0) + left
    return [
        no_engine(recipe, rule, f"rule {rule.number} matches {plural(modules[rule.number], 'module')}")
        for rule in recipe.rules
        if rule.number in modules
    ]


def unbuilt_possible(recipe: Recipe, facts: ModelFacts) -> list[Diagnostic]:
    """The same before scores are known: an error where the rule gets layers whatever they are, else a warning."""
    found: list[Diagnostic] = []
    if all(action.carried_out for rule in recipe.rules for action in rule.actions):
        return found
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True):
        if all(action.carried_out for action in rule.actions) or not known.open:
            continue
        if _takes_some(rule):
            found.append(no_engine(recipe, rule, f"rule {rule.number}"))
        else:
            said = no_engine(recipe, rule, f"rule {rule.number}, where scores choose it")
            found.append(replace(said, severity=Severity.WARNING))
    return found


def _takes_some(rule: Rule) -> bool:
    """Whether a rule with layers to choose from takes one for sure."""
    if isinstance(rule.selector, RankSelector):
        return rule.selector.until is None
    return getattr(rule.selector, "where", None) is None
