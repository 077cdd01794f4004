"""A recipe as JSON or YAML, and back: `to_exchange`, `from_exchange`, and the schema of both: `recipe_schema`.

The data is that of the syntax tree: a list of statements in their order, parameters and expressions as they are written.
Nothing is resolved, so a recipe that comes back is the same recipe, with its parameters and its includes; only comments
and spacing are lost. `docs/exchange.md` is the user's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Literal

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Label, error
from lbdsl.core.span import Source
from lbdsl.recipe.exchange_codecs import action_schemas, list_of, object_schema
from lbdsl.recipe.exchange_reader import Reader
from lbdsl.recipe.exchange_table import STATEMENT, STATEMENTS, kind_of
from lbdsl.recipe.exchange_text import json_data, json_text, yaml_data, yaml_text
from lbdsl.syntax import tree
from lbdsl.syntax.format import format_parsed
from lbdsl.syntax.parse import parse
from lbdsl.syntax.planned import not_in_this_version
from lbdsl.syntax.tree_text import tree_text

ExchangeForm = Literal["json", "yaml"]

FORMAT_VERSION = 1
"""Of the JSON form; it rises when a program that reads it would have to change."""

_STATEMENT_LIST = list_of(STATEMENT)
_DOCUMENT = object_schema(
    {
        "format_version": {"const": FORMAT_VERSION, "title": "Format Version", "type": "integer"},
        "statements": {"items": STATEMENT.reference(), "title": "Statements", "type": "array"},
    }
)


def to_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in `text` as JSON or YAML. None with errors: the text does not parse, or LB045.

    The recipe need not be right: names are not looked up.
    """
    parsed = parse(Source(name, text))
    if parsed.value is None or any(problem.is_error for problem in parsed.diagnostics):
        return Diagnosed(None, parsed.diagnostics)
    statements = parsed.value.statements
    planned = not_in_this_version(statements)
    if planned:
        return Diagnosed(None, planned)
    repeated = [found for block in statements if isinstance(block, tree.Block) for found in _repeated_settings(block)]
    if repeated:
        return Diagnosed(None, tuple(repeated))
    data = {"format_version": FORMAT_VERSION, "statements": _STATEMENT_LIST.write(statements)}
    return Diagnosed(json_text(data) if form == "json" else yaml_text(data), parsed.diagnostics)


def _repeated_settings(block: tree.Block) -> Iterable[Diagnostic]:
    """LB045 for settings given twice."""
    seen: dict[str, tree.Setting] = {}
    for setting in block.settings:
        first = seen.setdefault(setting.key.name, setting)
        if first is not setting:
            message = f"`{setting.key.name}` is set twice, and JSON has no such form"
            labels = (Label(first.key.span, "first set here"),)
            yield error("LB045", message, setting.key.span, labels=labels, help="remove one of them")


def from_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in JSON or YAML as text of the recipe language, canonically formatted. None with errors LB041 - LB045."""
    data, found = json_data(text, name) if form == "json" else yaml_data(text, name)
    if any(problem.is_error for problem in found):
        return Diagnosed(None, found)
    reader = Reader(name)
    statements = _read_document(reader, data)
    if reader.diagnostics:
        return Diagnosed(None, tuple(reader.diagnostics))
    groups = groupby(statements, lambda statement: kind_of(STATEMENTS, statement).group)
    parsed = parse(Source(name, "\n".join(tree_text(group) for _, group in groups)))
    # Only what no text can say gets here, such as a pattern that ends in a backslash.
    problem = next((problem for problem in parsed.diagnostics if problem.is_error), None)
    if problem is not None:
        return Diagnosed(None, (error("LB045", f"{name}: {problem.message}", problem.span, help=problem.help),))
    if parsed.value is None or parsed.value.statements != statements:
        hint = "look for a pattern with an odd backslash, or a name that is a word of the language"
        return Diagnosed(None, (error("LB045", f"{name}: a statement cannot be written as a recipe", help=hint),))
    return format_parsed(parsed.value)


def _read_document(reader: Reader, data: Any) -> tuple[tree.Statement, ...]:
    if not isinstance(data, dict):
        reader.wrong("", 'a recipe is an object: {"format_version": 1, "statements": [...]}')
    elif reader.fits(_DOCUMENT, data, ""):
        found: tuple[tree.Statement, ...] = _STATEMENT_LIST.read(reader, data["statements"], "statements")
        return found
    return ()


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12), for editors and for programs that write recipes.

    It knows every registered action. Text that holds an expression is any text here; its grammar is the language's.
    """
    definitions = {**action_schemas(), STATEMENT.name: STATEMENT.schema}
    for kind in STATEMENTS:
        definitions[kind.form] = kind.schema()
        for field in kind.fields:
            codec = field.codec.item or field.codec
            definitions |= {codec.name: codec.schema} if codec.name else {}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lbdsl:recipe:{FORMAT_VERSION}",
        "title": "lbdsl recipe",
        "description": "A recipe for compressing a language model, as `lbdsl convert` writes it.",
        **dict(sorted(_DOCUMENT.items())),
        "$defs": dict(sorted(definitions.items())),
    }
