"""A recipe as JSON or YAML, and back: `to_exchange`, `from_exchange`, and the schema of both: `recipe_schema`.

The data is that of the syntax tree: a list of statements in their order, parameters and expressions as they are written.
Nothing is resolved, so a recipe that comes back is the same recipe, with its parameters and its includes; only comments
and spacing are lost. `docs/exchange.md` is the user's page.

Each kind of statement is one row of `STATEMENTS`, from which reading, writing and the schema follow. A new statement is a
row there, and a template in `lbdsl.language.tree_text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Literal, NamedTuple

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Label, error
from lbdsl.core.registry import nearest
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.format import format_parsed
from lbdsl.language.parse import parse
from lbdsl.language.planned import not_in_this_version
from lbdsl.language.tree_text import tree_text
from lbdsl.recipe import exchange_codecs as codecs
from lbdsl.recipe.exchange_codecs import Codec, action_schemas, any_schema, list_of, object_schema, settings_of
from lbdsl.recipe.exchange_reader import NOWHERE, JsonReader, Schema
from lbdsl.recipe.exchange_text import json_data, json_text, yaml_data, yaml_text
from lbdsl.recipe.scope import Unresolved, attempt

ExchangeForm = Literal["json", "yaml"]

FORMAT_VERSION = 1
"""Of the JSON form; it rises when a program that reads it would have to change."""

# The table -----------------------------------------------------------------------------------------------------------

HEAD, DEFINITION, MEASURING, RULE, HEALING, ASSERTION = range(6)
"""Groups of statements, between which a blank line stands in text."""


class Field(NamedTuple):
    """A key of a statement, the field of its node, and how the value is read and written.

    `default` is the node's value where the key is not given; without one it has to be.
    """

    key: str
    name: str
    codec: Codec
    default: Any = ...


_RULE_FIELDS = (Field("do", "actions", codecs.ACTIONS), Field("because", "because", codecs.STRING_OR_NULL, None))
"""What every rule has beside its selector."""


class StatementForm:
    """A kind of statement. Its first key tells it; of a rule, `node` and `fields` are those of the selector.

    `fixed` are fields of the node that are known by the kind alone. `example` and `title` are for the schema.
    """

    def __init__(
        self,
        group: int,
        node: type[tree.Node],
        example: str,
        *fields: Field,
        fixed: Mapping[str, Any] | None = None,
        title: str = "",
    ):
        common = _RULE_FIELDS if group == RULE else ()
        self.group, self.node, self.example = group, node, example
        self.key = fields[0].key
        self.fields = (*fields, *common)
        self.keys = {field.key: field for field in (*common, *fields)}
        self.required = [key for key, field in self.keys.items() if field.default is ...]
        self.fixed = fixed or {}
        self.form = f"{title or self.key.title()}Form"

    def read(self, reader: JsonReader, data: Any, path: str) -> Any:
        """The node that data says."""
        wanted = object_schema({key: field.codec.schema for key, field in self.keys.items()}, self.required)
        if not reader.fits(wanted, data, path):
            raise Unresolved
        values = {field.name: field.default for field in self.fields} | dict(self.fixed)
        for field in self.fields:
            if field.key in data:
                values[field.name] = attempt(field.codec.read, reader, data[field.key], f"{path}.{field.key}")
        node = _made(self.node, values)
        return _made(tree.RuleStatement, values | {"selector": node}) if self.group == RULE else node

    def matches(self, node: tree.Node) -> bool:
        inner = node.selector if isinstance(node, tree.RuleStatement) else node
        return type(inner) is self.node and all(getattr(inner, name) == value for name, value in self.fixed.items())

    def write(self, node: tree.Node) -> dict[str, Any]:
        """The data of a node of this kind."""
        values = vars(node) | (vars(node.selector) if isinstance(node, tree.RuleStatement) else {})
        # That `else` is there is all that it says: it has no field.
        given = [(field, values.get(field.name, True)) for field in self.fields]
        return {field.key: field.codec.write(value) for field, value in given if value is not field.default}

    def schema(self) -> Schema:
        """The definition of such a statement."""
        properties = {key: _described(key, field.codec) for key, field in self.keys.items()}
        about = {"description": f"`{self.example}`."} if self.example else {}
        return dict(sorted({**object_schema(properties, self.required), **about, "title": self.form}.items()))


def _made(cls: type[tree.Node], values: Mapping[str, Any]) -> tree.Node:
    return cls(NOWHERE, *[values[name] for name in cls._fields[1:]])


def _described(key: str, codec: Codec) -> Schema:
    # Settings have a title of their own.
    title = {} if "title" in codec.schema else {"title": key.replace("_", " ").title()}
    return dict(sorted({**codec.reference(), **title}.items()))


def _block(group: int, word: str) -> StatementForm:
    settings = Field(word, "items", settings_of(word))
    return StatementForm(group, tree.Block, "", settings, fixed={"kind": tree.Ident(NOWHERE, word)})


STATEMENTS = (
    StatementForm(HEAD, tree.Version, "lbr 1", Field("lbr", "number", codecs.NUMBER), title="Version"),
    StatementForm(HEAD, tree.RecipeName, 'recipe "half-the-cache"', Field("recipe", "name", codecs.STRING), title="Name"),
    StatementForm(HEAD, tree.Requires, "requires model.layers >= 24", Field("requires", "expr", codecs.CONDITION)),
    StatementForm(
        DEFINITION,
        tree.Param,
        "param $window: tokens in 64..8Ki = 256",
        Field("param", "name", codecs.VARIABLE),
        Field("type", "type", codecs.WORD),
        Field("in", "domain", codecs.DOMAIN, None),
        Field("default", "default", codecs.VALUE, None),
    ),
    StatementForm(
        DEFINITION, tree.Let, "let $n = 4", Field("let", "name", codecs.VARIABLE), Field("value", "value", codecs.VALUE)
    ),
    StatementForm(
        DEFINITION,
        tree.Group,
        "group @ends = first 2, last 1",
        Field("group", "name", codecs.GROUP),
        Field("layers", "layers", codecs.LAYERS),
    ),
    StatementForm(
        DEFINITION,
        tree.Include,
        'include "common.lbr" sha256 "..."',
        Field("include", "path", codecs.STRING),
        Field("sha256", "sha256", codecs.STRING_OR_NULL, None),
    ),
    _block(MEASURING, "measure"),
    _block(HEALING, "heal"),
    _block(HEALING, "eval"),
    StatementForm(ASSERTION, tree.Assertion, "assert kv(32Ki) <= 50%", Field("assert", "expr", codecs.CONDITION)),
    StatementForm(RULE, tree.ElseSelector, "else keep", Field("else", "else", codecs.TRUE)),
    StatementForm(
        RULE,
        tree.RankSelector,
        "lowest 6 of rest by sensitivity until kv(32Ki) <= 50% drop",
        Field("rank", "direction", codecs.DIRECTION),
        Field("amount", "amount", codecs.AMOUNT, None),
        Field("of_rest", "of_rest", codecs.FLAG, False),
        Field("by", "by", codecs.SCORE),
        Field("until", "bound", codecs.CONDITION, None),
    ),
    StatementForm(
        RULE,
        tree.ModulesSelector,
        'modules "*.k_proj", ~"v_.*" in layers 4-27 where nll < 0.1 quantize(bits=4)',
        Field("modules", "patterns", list_of(codecs.MODULE_PATTERN, minItems=1)),
        Field("in_layers", "layers", codecs.LAYERS, None),
        Field("where", "where", codecs.CONDITION, None),
    ),
    StatementForm(
        RULE,
        tree.LayersSelector,
        "layers 0-3 where nll < 0.1 keep",
        Field("layers", "layers", codecs.LAYERS),
        Field("where", "where", codecs.CONDITION, None),
    ),
    StatementForm(RULE, tree.WhereSelector, "where sensitivity < 0.1 drop", Field("where", "where", codecs.CONDITION)),
)
"""Every statement, in the order in which their keys are looked for."""


def _kind_of(node: tree.Node) -> StatementForm:
    return next(kind for kind in STATEMENTS if kind.matches(node))


def _read_statement(reader: JsonReader, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        reader.refuse(path, "a statement is an object", help='as in {"layers": "0-3", "do": "keep"}')
    keys = [kind.key for kind in STATEMENTS]
    kind = next((kind for kind in STATEMENTS if kind.key in data), None)
    if kind is not None:
        return kind.read(reader, data, path)
    # Most likely the key that says what it is is misspelt.
    misspelt = next((key for key in data if nearest(key, keys) is not None), None)
    if misspelt is None:
        known = ", ".join(f"`{key}`" for key in keys)
        reader.refuse(path, "no key says what statement this is", help=f"one of {known}")
    reader.unknown_key(path, misspelt, keys)
    raise Unresolved


_ANY_STATEMENT = any_schema(*[{"$ref": f"#/$defs/{kind.form}"} for kind in STATEMENTS])
STATEMENT = Codec(_read_statement, lambda node: _kind_of(node).write(node), _ANY_STATEMENT, "Statement")

# Reading and writing -------------------------------------------------------------------------------------------------

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
    reader = JsonReader(name)
    statements = attempt(_read_document, reader, data)
    if statements is None or reader.diagnostics:
        return Diagnosed(None, tuple(reader.diagnostics))
    groups = groupby(statements, lambda statement: _kind_of(statement).group)
    parsed = parse(Source(name, "\n".join(tree_text(group) for _, group in groups)))
    # Only what no text can say gets here, such as a pattern that ends in a backslash.
    problem = next((problem for problem in parsed.diagnostics if problem.is_error), None)
    if problem is not None:
        return Diagnosed(None, (error("LB045", f"{name}: {problem.message}", problem.span, help=problem.help),))
    if parsed.value is None or parsed.value.statements != statements:
        hint = "look for a pattern with an odd backslash, or a name that is a word of the language"
        return Diagnosed(None, (error("LB045", f"{name}: a statement cannot be written as a recipe", help=hint),))
    return format_parsed(parsed.value)


def _read_document(reader: JsonReader, data: Any) -> tuple[tree.Statement, ...]:
    if not isinstance(data, dict):
        reader.refuse("", 'a recipe is an object: {"format_version": 1, "statements": [...]}')
    if not reader.fits(_DOCUMENT, data, ""):
        raise Unresolved
    found: tuple[tree.Statement, ...] = _STATEMENT_LIST.read(reader, data["statements"], "statements")
    return found


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
