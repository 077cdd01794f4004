"""Convert recipes to JSON or YAML and back: `to_exchange`, `from_exchange`, and the JSON schema: `recipe_schema`.

The data mirrors the syntax tree: a list of statements in order, with parameters and expressions as they are written.
Nothing is resolved, so a round trip gives the same recipe, with its parameters and includes; only comments and spacing are
lost. The user documentation is `docs/exchange.md`.

Each kind of statement is one row of `STATEMENTS`, which defines reading, writing and the schema.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from lbdsl.core.diagnostic import Diagnosed, Label, error
from lbdsl.core.nearest import nearest
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.format import format_parsed
from lbdsl.language.parse import parse
from lbdsl.language.words import keywords
from lbdsl.recipe import exchange_schemas as schemas
from lbdsl.recipe import exchange_values as kinds
from lbdsl.recipe.exchange_reader import JsonReader, each_item
from lbdsl.recipe.exchange_text import ExchangeForm, json_text, read_data, yaml_text
from lbdsl.recipe.scope import Unresolved, attempt, each

FORMAT_VERSION = 1
"""Version of the JSON form; it increases when a program that reads it would have to change."""

# The table -----------------------------------------------------------------------------------------------------------

HEAD, DEFINITION, MEASURING, RULE, HEALING, ASSERTION = range(6)
"""Groups of statements, separated by a blank line in text."""

_FIELD = re.compile(r"\[([^<\]]*)<(\w+)>\]|<(\w+)>")


class StatementForm(NamedTuple):
    """A kind of statement; for a rule, `node` is its selector.

    `text` is a template: `<key>` is the text of a key's value; `[...]` is omitted if its key is absent. The first key
    identifies the kind. `values` maps each key to the node's field and the kind of its value.
    """

    group: int
    node: type[tree.Node]
    text: str
    values: dict[str, tuple[str, kinds.Kind]]

    @property
    def key(self) -> str:
        return next(iter(self.values))

    @property
    def form(self) -> str:
        return f"{self.key.title()}Form"

    @property
    def required(self) -> list[str]:
        optional = {match[2] for match in _FIELD.finditer(self.text)}
        return [key for key in self.values if key not in optional]

    def schema(self) -> schemas.Schema:
        """The JSON schema of such a statement."""
        properties = {key: kind.reference() for key, (_, kind) in self.values.items()}
        about = keywords()["lowest" if self.key == "rank" else self.key].example
        return schemas.object_schema(properties, self.required) | {"description": f"`{about}`."}

    def read(self, reader: JsonReader, data: Any, path: str) -> str:
        """The text of the statement that `data` describes."""
        reader.check_keys(self.values, self.required, data, path)
        read = each(lambda item: self.values[item[0]][1].read(reader, item[1], f"{path}.{item[0]}"), data.items())
        texts = dict(zip(data, read, strict=True))

        def filled(match: re.Match[str]) -> str:
            text = texts.get(match[2] or match[3], "")
            return (match[1] or "") + text if text else ""

        return _FIELD.sub(filled, self.text)

    def matches(self, node: tree.Node) -> bool:
        inner = node.selector if isinstance(node, tree.RuleStatement) else node
        return type(inner) is self.node and (not isinstance(inner, tree.Block) or inner.kind.name == self.key)

    def write(self, node: tree.Node) -> dict[str, Any]:
        """The data of a node of this kind."""
        fields = vars(node) | (vars(node.selector) if isinstance(node, tree.RuleStatement) else {})
        given = {key: (kind, fields.get(name, True)) for key, (name, kind) in self.values.items()}
        return {key: kind.write(value) for key, (kind, value) in given.items() if value is not None and value is not False}


def _form(group: int, node: type[tree.Node], text: str, **own: kinds.Kind) -> StatementForm:
    """A row; the keys in `text` match the node's fields in order, and `own` overrides `KINDS` for fields of this node
    alone."""
    fields = [name for name in node._fields if name not in ("span", "kind")] or ["else"]
    if group == RULE and node is not tree.Choose:
        fields, text = [*fields, "actions", "because"], f"{text} <do>[ because <because>]"
    every = {**kinds.KINDS, **own}
    keys = [match[2] or match[3] for match in _FIELD.finditer(text)]
    values = {key: (name, every[name]) for key, name in zip(keys, fields, strict=True)}
    return StatementForm(group, node, text, values)


STATEMENTS = (
    _form(HEAD, tree.Version, "lbr <lbr>"),
    _form(HEAD, tree.RecipeName, "recipe <recipe>", name=kinds.STRING),
    _form(HEAD, tree.Requires, "requires <requires>"),
    _form(DEFINITION, tree.Param, "param <param>: <type>[ in <in>][ = <default>]", name=kinds.VARIABLE),
    _form(DEFINITION, tree.Let, "let <let> = <value>", name=kinds.VARIABLE),
    _form(DEFINITION, tree.Group, "group <group> = <layers>", name=kinds.GROUP),
    _form(DEFINITION, tree.Include, "include <include>[ sha256 <sha256>]"),
    _form(MEASURING, tree.Block, "measure { <measure> }", items=kinds.settings_of("measure")),
    _form(HEALING, tree.Block, "heal { <heal> }", items=kinds.settings_of("heal")),
    _form(HEALING, tree.Block, "eval { <eval> }", items=kinds.settings_of("eval")),
    _form(ASSERTION, tree.Assertion, "assert <assert>"),
    _form(RULE, tree.ElseSelector, "<else>"),
    _form(RULE, tree.Choose, "choose for layers <choose> among <among> minimizing <minimizing> subject to <subject_to>"),
    _form(RULE, tree.RankSelector, "<rank>[ <amount>][ <of_rest>] by <by>[ until <until>][ while <while>]"),
    _form(RULE, tree.ModulesSelector, "modules <modules>[ in layers <in_layers>][ where <where>]"),
    _form(RULE, tree.LayersSelector, "layers <layers>[ where <where>]"),
    _form(RULE, tree.WhereSelector, "where <where>"),
)
"""Every statement, in the order in which their keys are looked for."""


def _read_statement(reader: JsonReader, data: Any, path: str) -> tuple[int, str]:
    """The group of a statement, and its text."""
    if not isinstance(data, dict):
        reader.refuse(path, "a statement is an object", help='as in {"layers": "0-3", "do": "keep"}')
    keys = [kind.key for kind in STATEMENTS]
    kind = next((kind for kind in STATEMENTS if kind.key in data), None)
    if kind is not None:
        return kind.group, kind.read(reader, data, path)
    # Most likely the key that identifies the statement is misspelt.
    misspelt = next((key for key in data if nearest(key, keys) is not None), None)
    if misspelt is None:
        known = ", ".join(f"`{key}`" for key in keys)
        reader.refuse(path, "no key says what statement this is", help=f"one of {known}")
    reader.unknown_key(path, misspelt, keys)
    raise Unresolved


# Reading and writing -------------------------------------------------------------------------------------------------


def to_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in `text` as JSON or YAML. None with errors: the text does not parse, or LB045.

    The recipe may have other errors: names are not resolved.
    """
    parsed = parse(Source(name, text))
    if parsed.value is None or any(problem.is_error for problem in parsed.diagnostics):
        return Diagnosed(None, parsed.diagnostics)
    statements = parsed.value.statements
    refused = []
    for block in (statement for statement in statements if isinstance(statement, tree.Block)):
        for settings in (block.settings, *(stage.settings for stage in block.stages)):
            first = {setting.key.name: setting.key for setting in reversed(settings)}
            for key in (setting.key for setting in settings if first[setting.key.name] is not setting.key):
                labels = (Label(first[key.name].span, "first set here"),)
                message = f"`{key.name}` is set twice, and JSON has no such form"
                refused.append(error("LB045", message, key.span, labels=labels, help="remove one of them"))
    if refused:
        return Diagnosed(None, tuple(refused))
    forms = [next(form for form in STATEMENTS if form.matches(node)) for node in statements]
    written = [form.write(node) for form, node in zip(forms, statements, strict=True)]
    data = {"format_version": FORMAT_VERSION, "statements": written}
    return Diagnosed(f"{json_text(data)}\n" if form == "json" else yaml_text(data), parsed.diagnostics)


def from_exchange(text: str, name: str, form: ExchangeForm) -> Diagnosed[str]:
    """The recipe in JSON or YAML as text of the recipe language, canonically formatted. None with errors LB041 - LB045."""
    reader = JsonReader(name)
    try:
        data, reader.diagnostics[:] = read_data(text, name, form)
        statements = None if reader.diagnostics else attempt(_read_document, reader, data)
    except RecursionError:
        return Diagnosed(None, (error("LB041", f"{name} is nested too deep"),))
    if statements is None or reader.diagnostics:
        return Diagnosed(None, tuple(reader.diagnostics))
    groups = groupby(statements, key=itemgetter(0))
    parsed = parse(Source(name, "\n".join("".join(f"{text}\n" for _, text in group) for _, group in groups)))
    # The reader has reported all other errors; what is left is, for example, a name that is a keyword.
    problem = next((problem for problem in parsed.diagnostics if problem.is_error), None)
    if problem is not None:
        return Diagnosed(None, (error("LB045", f"{name}: {problem.message}", problem.span, help=problem.help),))
    file = parsed.unwrap()
    assert len(file.statements) == len(statements), "text in a value was parsed by itself"
    return format_parsed(file)


_KEYS = ("format_version", "statements")


def _read_document(reader: JsonReader, data: Any) -> tuple[tuple[int, str], ...]:
    if not isinstance(data, dict):
        reader.refuse("", 'a recipe is an object: {"format_version": 1, "statements": [...]}')
    reader.check_keys(_KEYS, _KEYS, data, "")
    if data["format_version"] != FORMAT_VERSION or data["format_version"] is True:
        reader.refuse("format_version", f"must be {FORMAT_VERSION}")
    if not isinstance(data["statements"], list):
        reader.refuse("statements", "must be a list")
    return each_item(partial(_read_statement, reader), data["statements"], "statements")


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12), for editors and for programs that write recipes.

    It includes every registered action. An expression may be any string here; the schema does not check its grammar.
    """
    statements = schemas.any_schema(*[{"$ref": f"#/$defs/{form.form}"} for form in STATEMENTS])
    definitions = {**schemas.action_schemas(), "Statement": statements}
    for form in STATEMENTS:
        definitions[form.form] = form.schema()
        for _, kind in form.values.values():
            definitions |= {kind.name: kind.schema} if kind.name else {}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lbdsl:recipe:{FORMAT_VERSION}",
        "title": "lbdsl recipe",
        "description": "A recipe for compressing a language model, as `lbdsl convert` writes it.",
        **schemas.object_schema(
            dict(zip(_KEYS, ({"const": FORMAT_VERSION}, schemas.array_schema({"$ref": "#/$defs/Statement"})), strict=True))
        ),
        "$defs": dict(sorted(definitions.items())),
    }
