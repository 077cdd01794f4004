"""A recipe as JSON or YAML, and back: `to_exchange`, `from_exchange`.

The data is that of the syntax tree: a list of statements in their order, parameters and expressions as they are written.
Nothing is resolved, so a recipe that comes back is the same recipe, with its parameters and its includes; only comments
and spacing are lost. `docs/exchange.md` is the user's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from lbdsl.core.diagnostic import Diagnosed, error
from lbdsl.core.span import Source
from lbdsl.recipe.exchange_read import statements_from
from lbdsl.recipe.exchange_text import json_data, json_text, yaml_data, yaml_text
from lbdsl.recipe.exchange_write import recipe_data
from lbdsl.syntax import tree
from lbdsl.syntax.format import format_parsed
from lbdsl.syntax.format_tree import tree_text
from lbdsl.syntax.parse import parse
from lbdsl.syntax.planned import not_in_this_version

ExchangeForm = Literal["json", "yaml"]


def to_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in `text` as JSON or YAML. None with errors: the text does not parse, or LB045.

    The recipe need not be right: names are not looked up.
    """
    parsed = parse(Source(name, text))
    if parsed.value is None or any(problem.is_error for problem in parsed.diagnostics):
        return Diagnosed(None, parsed.diagnostics)
    planned = not_in_this_version(parsed.value.statements)
    if planned:
        return Diagnosed(None, planned)
    data = recipe_data(parsed.value.statements)
    if data.value is None:
        return Diagnosed(None, data.diagnostics)
    return Diagnosed(json_text(data.value) if form == "json" else yaml_text(data.value), parsed.diagnostics)


def from_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in JSON or YAML as text of the recipe language, canonically formatted. None with errors LB041 - LB045."""
    data = json_data(text, name) if form == "json" else yaml_data(text, name)
    if any(problem.is_error for problem in data.diagnostics):
        return Diagnosed(None, data.diagnostics)
    read = statements_from(data.value, name)
    if read.value is None:
        return Diagnosed(None, read.diagnostics)
    written = _grouped(read.value)
    parsed = parse(Source(name, written))
    if any(problem.is_error for problem in parsed.diagnostics):
        # Only what no text can say gets here, such as a pattern that ends in a backslash.
        first = next(problem for problem in parsed.diagnostics if problem.is_error)
        return Diagnosed(None, (error("LB045", f"{name}: {first.message}", first.span, help=first.help),))
    if parsed.value is None or parsed.value.statements != read.value:
        return Diagnosed(
            None,
            (
                error(
                    "LB045",
                    f"{name}: a statement cannot be written as a recipe",
                    help=("look for a pattern with an odd backslash, or a name that is a word of the language"),
                ),
            ),
        )
    return format_parsed(parsed.value)


_GROUPS = {
    tree.Version: 0,
    tree.RecipeName: 0,
    tree.Requires: 0,
    tree.Include: 1,
    tree.Param: 1,
    tree.Let: 1,
    tree.Group: 1,
    tree.RuleStatement: 3,
    tree.Assertion: 5,
}


def _grouped(statements: Iterable[tree.Statement]) -> str:
    """The text with a blank line between groups of statements: head, definitions, measuring, rules, healing, asserts."""
    parts: list[str] = []
    last: int | None = None
    for statement in statements:
        if isinstance(statement, tree.Block):
            group = 2 if statement.kind.name == "measure" else 4
        else:
            group = _GROUPS[type(statement)]
        if last not in (None, group):
            parts.append("\n")
        parts.append(tree_text([statement]))
        last = group
    return "".join(parts)
