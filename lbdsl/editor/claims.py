"""Inlay hints at the ends of rules: how many layers each rule claims, as far as known without measuring."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lbdsl.core.span import Span
from lbdsl.core.units import plural, ranges_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import RankSelector
from lbdsl.recipe.schema import Recipe
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import scores_in
from lbdsl.solve.select import select


@dataclass(frozen=True)
class Hint:
    """A short text after the rule at `span`; `more` is its tooltip."""

    span: Span
    text: str
    more: str


def claim_hints(recipe: Recipe, facts: ModelFacts) -> tuple[Hint, ...]:
    """A hint for every rule; none when the recipe does not fit the model.

    The claims of rules before the first one that needs scores are exact. From there on they depend on scores: a ranking
    of n layers claims at most n; for other rules the number is not known.
    """
    if Case(recipe, facts).problems:
        return ()
    ranked = (isinstance(rule.selector, RankSelector) or scores_in(rule.selector) for rule in recipe.rules)
    exact = next((index for index, needs in enumerate(ranked) if needs), len(recipe.rules))
    known = replace(recipe, rules=recipe.rules[:exact], requires=(), asserts=())
    chosen = select(Case(known, facts), {}).value
    if chosen is None:
        return ()
    hints = []
    for rule, outcome in zip(known.rules, chosen.rules, strict=True):
        shadowed = f" Earlier rules claim {ranges_text(outcome.shadowed)} of those it names." if outcome.shadowed else ""
        which = f"Layers {ranges_text(outcome.claims)}." if outcome.claims else "No layer."
        hints.append(Hint(rule.span, f"claims {plural(len(outcome.claims), 'layer')}", which + shadowed))
    for rule in recipe.rules[exact:]:
        span, selector = rule.span, rule.selector
        if isinstance(selector, RankSelector) and selector.amount is not None and selector.until is None:
            most = plural(selector.amount.of(facts.layers), "layer")
            hints.append(Hint(span, f"claims at most {most}", "Which ones, measurements decide: `lbdsl plan`."))
        else:
            hints.append(Hint(span, "needs measurements", "`lbdsl plan` measures and shows what it claims."))
    return tuple(hints)
