"""What is known of a recipe on a model before anything is measured: all that `check --model` says."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnostic, error, warning
from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.check import action_findings, context_findings, facts_only
from lbdsl.plan.claims import fixed_layers, known_before_measuring
from lbdsl.plan.cost import base_cost, model_cost
from lbdsl.plan.evaluate import World, holds
from lbdsl.plan.hopeless import hopeless_untils
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.lint import lacking_part
from lbdsl.plan.requests import requests_of
from lbdsl.plan.select import select
from lbdsl.plan.shown import deciding
from lbdsl.plan.unbuilt import unbuilt_chosen, unbuilt_possible
from lbdsl.recipe.schema import ElseSelector, Phase, Recipe


def static_findings(recipe: Recipe, facts: ModelFacts) -> tuple[Diagnostic, ...]:
    """Layers and patterns that the model does not have, `requires` and static asserts that fail, an `until` that no
    scores can meet, rules that no score can give a layer, windows and contexts beyond the model's positions, actions
    that nothing carries out. A recipe that needs no score is selected in full."""
    needed = requests_of(recipe, facts)
    if needed.value is None:
        return needed.diagnostics
    requests, _ = needed.value
    if requests:
        hopeless = hopeless_untils(recipe, facts, requests)
        if hopeless:
            return hopeless
        found = (*_unreachable(recipe, facts), *action_findings(recipe, facts), *unbuilt_possible(recipe, facts))
        found += (*_asserts(recipe, World(recipe, facts), costs=False), *context_findings(recipe, facts))
        return found + with_lengths(recipe, facts).diagnostics
    selection, chosen = select(recipe, facts, {})
    if selection is None:
        return chosen
    world = World(recipe, facts, cost=model_cost(facts, selection.specs), base=base_cost(facts))
    unbuilt = unbuilt_chosen(recipe, facts, selection)
    found = (*chosen, *unbuilt, *_asserts(recipe, world, costs=True), *context_findings(recipe, facts))
    return found + with_lengths(recipe, facts).diagnostics


def _unreachable(recipe: Recipe, facts: ModelFacts) -> list[Diagnostic]:
    """Rules whose layers earlier rules claim whatever the scores are."""
    found: list[Diagnostic] = []
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True):
        if isinstance(rule.selector, ElseSelector):
            continue
        layers = fixed_layers(rule, facts)
        if layers is not None and not layers:
            found.append(
                warning(
                    "LB310",
                    f"rule {rule.number} matches no layer: its set is empty",
                    recipe.span(rule),
                    help=f"the model has {facts.layers} layers",
                )
            )
        elif (lacking := lacking_part(recipe, rule, facts, known.wanted)) is not None:
            found.append(lacking)
        elif not known.open:
            claimed = (
                f"shadowed, {len(layers)} of {len(layers)} claimed by earlier rules"
                if layers is not None
                else ("earlier rules claim all that it could")
            )
            found.append(
                warning(
                    "LB307",
                    f"rule {rule.number} gets no layer: {claimed}",
                    recipe.span(rule),
                    help="move it up, or remove it",
                )
            )
    return found


def _asserts(recipe: Recipe, world: World, *, costs: bool) -> list[Diagnostic]:
    """Static asserts that fail. `costs`: those of the changed model are known, not only facts of the base."""
    found: list[Diagnostic] = []
    for assertion in recipe.asserts:
        if assertion.phase is not Phase.STATIC or not (costs or facts_only(assertion)):
            continue
        truth, problems = holds(assertion.expr, world)
        if truth is None:
            found += problems
        elif not truth:
            shown = deciding(assertion.expr, world) if costs else None
            said = f": `{shown.name}` is {shown.text}" if shown is not None else ""
            found.append(
                error(
                    "LB321",
                    f"`assert {assertion.text}` fails{said}",
                    recipe.span(assertion),
                    help="change more layers, or loosen the assert",
                )
            )
    return found
