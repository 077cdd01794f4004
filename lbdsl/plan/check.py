"""What is wrong with a recipe for a model, known before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lbdsl.core.diagnostic import Diagnostic, error, note, warning
from lbdsl.core.units import tokens_text
from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.claims import action_conflicts, known_before_measuring, scores_of
from lbdsl.plan.evaluate import World, holds, walk
from lbdsl.plan.layersets import layer_problems
from lbdsl.plan.modules import pattern_problems
from lbdsl.plan.shown import deciding
from lbdsl.plan.words import plural
from lbdsl.recipe.schema import Assertion, CostOf, PostScore, RankSelector, Recipe, Rule, Score


def check_recipe(recipe: Recipe, facts: ModelFacts) -> tuple[Diagnostic, ...]:
    """Errors only: `requires` that do not hold, layers that do not exist, actions that do not go together or that the model
    cannot express, `until` on what must be measured. Run it before measuring, which may take long."""
    found: list[Diagnostic] = []
    world = World(recipe, facts)
    for requirement in recipe.requires:
        if facts_only(requirement):
            found += requirement_problems(recipe, facts, requirement, world)
    found += layer_problems(recipe, facts.layers)
    found += action_conflicts(recipe)
    found += pattern_problems(recipe, facts)
    found += [
        no_engine(recipe, score, f"`{score.text}` cannot be measured")
        for rule in recipe.rules
        for score in scores_of(rule)
        if score.action and not score.action.carried_out
    ]
    for rule in recipe.rules:
        if isinstance(rule.selector, RankSelector) and rule.selector.until is not None:
            found += [
                error(
                    "LB315",
                    f"`until` cannot use `{part.name}` of the whole model",
                    recipe.span(part),
                    help=("give a cost, as in `until kv(32Ki) <= 50%`", f"or gate with `assert {part.name} < ...`"),
                )
                for part in walk(rule.selector.until)
                if isinstance(part, Score | PostScore)
            ]
    return tuple(found) or _impossible(recipe, facts)


def _impossible(recipe: Recipe, facts: ModelFacts) -> tuple[Diagnostic, ...]:
    """What actions, those of scores too, cannot do in the layers that they may be asked for."""
    found = [d for d in action_findings(recipe, facts) if d.is_error]
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True):
        for score in scores_of(rule):
            action = score.action
            wrong = (d for layer in known.domain for d in (action.check(facts, layer) if action else ()) if d.is_error)
            said = next(wrong, None)
            if said is not None and not any(d.code == said.code and said.message in d.message for d in found):
                found.append(replace(said, message=f"`{score.text}`: {said.message}", span=recipe.span(score)))
    return tuple(found)


def action_findings(recipe: Recipe, facts: ModelFacts) -> list[Diagnostic]:
    """What actions say of the layers that their rule may get, each finding once a rule."""
    found: list[Diagnostic] = []
    for rule, known in zip(recipe.rules, known_before_measuring(recipe, facts), strict=True):
        said: dict[str, tuple[Diagnostic, int]] = {}
        for layer in known.domain:
            for action in rule.actions:
                for d in action.check(facts, layer):
                    first, count = said.get(d.message, (d, 0))
                    said[d.message] = (first, count + 1)
        for d, count in said.values():
            where = "" if count == facts.layers else f" ({plural(count, 'layer')})"
            span = d.span or recipe.span(rule)
            found.append(
                Diagnostic(d.code, d.severity, f"rule {rule.number}: {d.message}{where}", span, d.labels, d.help, d.fix)
            )
    return found


def no_engine(recipe: Recipe, node: Rule | Score, said: str) -> Diagnostic:
    """LB215 at a rule or score whose action this version only plans."""
    actions = node.actions if isinstance(node, Rule) else (node.action,)
    names = " and ".join(f"`{action.kind}`" for action in actions if action is not None and not action.carried_out)
    return error(
        "LB215",
        f"{said}: nothing in this version carries out {names}",
        recipe.span(node),
        help="remove it to go on; its engine comes in a later version",
    )


def facts_only(requirement: Assertion) -> bool:
    """True when a condition asks only for facts of the base model."""
    return not any(isinstance(part, Score | PostScore | CostOf) for part in walk(requirement.expr))


def requirement_problems(
    recipe: Recipe,
    facts: ModelFacts,
    requirement: Assertion,
    world: World,
) -> tuple[Diagnostic, ...]:
    """Why one `requires` does not hold; nothing when it does."""
    truth, found = holds(requirement.expr, world)
    if truth is None or truth:
        return found
    shown = None if facts_only(requirement) else deciding(requirement.expr, world)
    said = f", and `{shown.name}` is {shown.text}" if shown is not None else ""
    return (
        error(
            "LB320",
            f"the recipe requires `{requirement.text}`{said}",
            recipe.span(requirement),
            help=f"this model: family {facts.family}, {facts.layers} layers, hidden {facts.hidden}",
        ),
    )


def context_findings(recipe: Recipe, facts: ModelFacts) -> list[Diagnostic]:
    """LB324 for each context of the recipe that the model was not made for."""
    found: dict[int, Diagnostic] = {}
    for node in costs_asked(recipe):
        if node.ctx is not None and node.ctx > facts.positions and node.ctx not in found:
            found[node.ctx] = warning(
                "LB324",
                f"{node.name}({tokens_text(node.ctx)}) is computed, but this model has "
                f"{tokens_text(facts.positions)} positions",
                recipe.span(node),
            )
    return list(found.values())


def beyond_positions(recipe: Recipe, facts: ModelFacts, contexts: tuple[int, ...]) -> list[Diagnostic]:
    """LB324 as a note for those of a plan's own contexts of which the recipe says nothing."""
    named = {node.ctx for node in costs_asked(recipe)}
    beyond = [tokens_text(ctx) for ctx in contexts if ctx > facts.positions and ctx not in named]
    limit = f"this model has {tokens_text(facts.positions)} positions"
    return [note("LB324", f"costs at {', '.join(beyond)} are computed, but {limit}")] if beyond else []


def costs_asked(recipe: Recipe) -> Iterator[CostOf]:
    """The costs that a recipe's asserts and budgets ask for."""
    roots = [assertion.expr for assertion in (*recipe.asserts, *recipe.requires)]
    roots += [
        rule.selector.until
        for rule in recipe.rules
        if isinstance(rule.selector, RankSelector) and rule.selector.until is not None
    ]
    yield from (part for root in roots for part in walk(root) if isinstance(part, CostOf))
