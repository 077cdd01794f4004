"""Inlay hints at the ends of rules: how many layers each rule claims, as far as known without measuring; and the model that
they are computed for."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from lbdsl.core.place import lies_in
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


def configured_model(flag: str | None, asked: object, default: str | None, root: Path | None) -> str | None:
    """The model, from the first source that names one: the command line, the editor (`initializationOptions.model`), the
    command's default (environment, `lbdsl.toml` in the working directory), `[lsp] model` in the workspace's `lbdsl.toml`,
    which names a model in the workspace. A relative path is relative to the workspace."""
    named = flag or (asked if isinstance(asked, str) and asked.strip() else None) or default
    if named is None and root is not None:
        named = _from_file(root / "lbdsl.toml")
        if named is not None and not lies_in(root / Path(named).expanduser(), root):
            return None
    if named is not None and root is not None and os.path.exists(root / named):
        return str(root / named)
    return named


def _from_file(path: Path) -> str | None:
    """The `[lsp] model` entry of a file; an invalid file is ignored here, the command line reports it."""
    try:
        named = tomllib.loads(path.read_text(encoding="utf-8"))["lsp"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return named if isinstance(named, str) and named.strip() else None


def facts_of(model: str) -> ModelFacts:
    """The facts of a model from its headers, without network access. Raises LbdslError."""
    from lbdsl.api.inspecting import inspect_model

    return inspect_model(model, offline=True).facts
