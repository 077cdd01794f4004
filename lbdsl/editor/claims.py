"""How many layers each rule claims, as far as that is known without measuring: the hints at the ends of rules."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lbdsl.core.span import Span
from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.case import Case, scores_of
from lbdsl.plan.check import check_recipe
from lbdsl.plan.select import select
from lbdsl.plan.words import plural, ranges_text
from lbdsl.recipe.schema import RankSelector, Recipe, Rule


@dataclass(frozen=True)
class Hint:
    """A few words after the rule at `span`; `more` says them at length."""

    span: Span
    text: str
    more: str


def claim_hints(recipe: Recipe, facts: ModelFacts) -> tuple[Hint, ...]:
    """A hint for every rule; none when the recipe does not fit the model.

    What the rules before the first measured one claim is exact. From there on it depends on scores: a ranking that asks
    for n layers gets at most n, and of others nothing is said.
    """
    if check_recipe(Case(recipe, facts)):
        return ()
    exact = next((index for index, rule in enumerate(recipe.rules) if not _is_static(rule)), len(recipe.rules))
    hints = list(_exact(recipe, facts, exact))
    if len(hints) < exact:
        return ()
    for rule in recipe.rules[exact:]:
        span = rule.span
        assert span is not None, "rules of a text have a place"
        selector = rule.selector
        if isinstance(selector, RankSelector) and selector.amount is not None and selector.until is None:
            most = plural(selector.amount.of(facts.layers), "layer")
            hints.append(Hint(span, f"claims at most {most}", "Which ones, measurements decide: `lbdsl plan`."))
        else:
            hints.append(Hint(span, "needs measurements", "`lbdsl plan` measures and shows what it claims."))
    return tuple(hints)


def _is_static(rule: Rule) -> bool:
    """Whether what a rule matches is known from the text and the model's shape."""
    return not scores_of(rule) and not (isinstance(rule.selector, RankSelector))


def _exact(recipe: Recipe, facts: ModelFacts, count: int) -> tuple[Hint, ...]:
    """The hints of the first rules, which need no scores; none when they cannot be carried out."""
    part = replace(recipe, rules=recipe.rules[:count], requires=(), asserts=())
    chosen = select(part, facts, {}).value
    if chosen is None:
        return ()
    hints = []
    for rule, outcome in zip(part.rules, chosen.rules, strict=True):
        span = rule.span
        assert span is not None, "rules of a text have a place"
        shadowed = f" Earlier rules claim {ranges_text(outcome.shadowed)} of those it names." if outcome.shadowed else ""
        which = f"Layers {ranges_text(outcome.claims)}." if outcome.claims else "No layer."
        hints.append(Hint(span, f"claims {plural(len(outcome.claims), 'layer')}", which + shadowed))
    return tuple(hints)
