"""What is wrong with a recipe for a model, known before anything is measured."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.facts import ModelFacts
from lbdsl.plan.claims import action_conflicts
from lbdsl.plan.evaluate import World, holds, walk
from lbdsl.plan.layersets import layer_problems
from lbdsl.plan.shown import deciding
from lbdsl.recipe.schema import Assertion, CostOf, PostScore, RankSelector, Recipe, Score


def check_recipe(recipe: Recipe, facts: ModelFacts) -> tuple[Diagnostic, ...]:
    """Errors only: `requires` that do not hold, layers that do not exist, actions that do not go together, `until` on
    what must be measured. Run it before measuring, which may take long."""
    found: list[Diagnostic] = []
    world = World(recipe, facts)
    for requirement in recipe.requires:
        if facts_only(requirement):
            found += requirement_problems(recipe, facts, requirement, world)
    found += layer_problems(recipe, facts.layers)
    found += action_conflicts(recipe)
    for rule in recipe.rules:
        if isinstance(rule.selector, RankSelector) and rule.selector.until is not None:
            found += [error("LB315", f"`until` cannot use `{part.name}` of the whole model", recipe.span(part),
                            help=("give a cost, as in `until kv(32Ki) <= 50%`",
                                  f"or gate with `assert {part.name} < ...`"))
                      for part in walk(rule.selector.until) if isinstance(part, Score | PostScore)]
    return tuple(found)


def facts_only(requirement: Assertion) -> bool:
    """True when a condition asks only for facts of the base model."""
    return not any(isinstance(part, Score | PostScore | CostOf) for part in walk(requirement.expr))


def requirement_problems(recipe: Recipe, facts: ModelFacts, requirement: Assertion, world: World,
                         ) -> tuple[Diagnostic, ...]:
    """Why one `requires` does not hold; nothing when it does."""
    truth, found = holds(requirement.expr, world)
    if truth is None or truth:
        return found
    shown = None if facts_only(requirement) else deciding(requirement.expr, world)
    said = f", and `{shown.name}` is {shown.text}" if shown is not None else ""
    return (error("LB320", f"the recipe requires `{requirement.text}`{said}", recipe.span(requirement),
                  help=f"this model: family {facts.family}, {facts.layers} layers, hidden {facts.hidden}"),)
