"""LB215 of rules: actions that this version plans and does not carry out, before and after the selection. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from lbdsl.actions import Action, Aspect
from lbdsl.core.diagnostic import Diagnostic, Severity
from lbdsl.core.facts import ModelFacts
from lbdsl.plan.check import no_engine
from lbdsl.plan.claims import known_before_measuring
from lbdsl.plan.select import Choice, Selection
from lbdsl.plan.words import plural
from lbdsl.recipe.schema import RankSelector, Recipe, Rule


def removed_by(actions: Iterable[Action], facts: ModelFacts, layer: int) -> tuple[str, ...]:
    """Prefixes of the modules that a layer loses."""
    return tuple(prefix for action in actions for change in action.changes(facts, layer) for prefix in change.removes)


def modules_left(choice: Choice, removes: tuple[str, ...]) -> tuple[str, ...]:
    """Of the modules that a choice is about, those that the layer keeps."""
    return tuple(name for name in choice.modules if not f"{name}.".startswith(removes))


def unbuilt_chosen(recipe: Recipe, facts: ModelFacts, selection: Selection) -> list[Diagnostic]:
    """Errors for the rules that got layers or modules for such an action."""
    modules: Counter[int] = Counter()
    chosen: set[int] = set()
    for layer in selection.layers:
        if all(item.action is None or item.action.carried_out for item in layer.choices):
            continue
        removes = removed_by(layer.changing, facts, layer.index)
        for item in layer.choices:
            left = modules_left(item, removes)
            if item.action is None or item.rule is None or item.action.carried_out:
                continue
            if left or item.aspect is not Aspect.WEIGHTS:
                chosen.add(item.rule)
                modules[item.rule] += len(left)
    return [
        no_engine(recipe, rule, f"rule {rule.number} matches {plural(modules[rule.number], 'module')}")
        for rule in recipe.rules
        if rule.number in chosen
    ]


def unbuilt_possible(recipe: Recipe, facts: ModelFacts) -> list[Diagnostic]:
    """The same before scores are known: an error where the rule gets layers whatever they are, else a warning."""
    found: list[Diagnostic] = []
    if all(action.carried_out for rule in recipe.rules for action in rule.actions):
        return found
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True):
        if all(action.carried_out for action in rule.actions) or not known.free:
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
