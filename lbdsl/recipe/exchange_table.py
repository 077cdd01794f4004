"""The statements of a recipe as JSON: one row for each kind, from which reading, writing and the JSON schema follow.

A new statement is a row of `STATEMENTS`, and a template in `lbdsl.syntax.tree_text`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lbdsl.core.registry import nearest
from lbdsl.recipe import exchange_codecs as codecs
from lbdsl.recipe.exchange_codecs import Codec, any_schema, list_of, object_schema, settings_of
from lbdsl.recipe.exchange_reader import NOWHERE, Reader, Schema
from lbdsl.syntax import tree

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


class Kind:
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

    def read(self, reader: Reader, data: Any, path: str) -> Any:
        """The node that data says; None where keys or plain values are wrong."""
        wanted = object_schema({key: field.codec.schema for key, field in self.keys.items()}, self.required)
        if not reader.fits(wanted, data, path):
            return None
        values = {field.name: field.default for field in self.fields} | dict(self.fixed)
        for field in self.fields:
            if field.key in data:
                values[field.name] = field.codec.read(reader, data[field.key], f"{path}.{field.key}")
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


def kind_of(kinds: Sequence[Kind], node: tree.Node) -> Kind:
    return next(kind for kind in kinds if kind.matches(node))


def one_of(kinds: Sequence[Kind], name: str) -> Codec:
    """A statement of any of these kinds."""
    keys = [kind.key for kind in kinds]

    def read(reader: Reader, data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            reader.wrong(path, "a statement is an object", help='as in {"layers": "0-3", "do": "keep"}')
            return None
        kind = next((kind for kind in kinds if kind.key in data), None)
        if kind is not None:
            return kind.read(reader, data, path)
        # Most likely the key that says what it is is misspelt.
        misspelt = next((key for key in data if nearest(key, keys) is not None), None)
        if misspelt is not None:
            reader.unknown_key(path, misspelt, keys)
        else:
            known = ", ".join(f"`{key}`" for key in keys)
            reader.wrong(path, "no key says what statement this is", help=f"one of {known}")
        return None

    schema = any_schema(*[{"$ref": f"#/$defs/{kind.form}"} for kind in kinds])
    return Codec(read, lambda node: kind_of(kinds, node).write(node), schema, name)


def _block(group: int, word: str) -> Kind:
    settings = Field(word, "items", settings_of(word))
    return Kind(group, tree.Block, "", settings, fixed={"kind": tree.Ident(NOWHERE, word)})


STATEMENTS = (
    Kind(HEAD, tree.Version, "lbr 1", Field("lbr", "number", codecs.NUMBER), title="Version"),
    Kind(HEAD, tree.RecipeName, 'recipe "half-the-cache"', Field("recipe", "name", codecs.STRING), title="Name"),
    Kind(HEAD, tree.Requires, "requires model.layers >= 24", Field("requires", "expr", codecs.CONDITION)),
    Kind(
        DEFINITION,
        tree.Param,
        "param $window: tokens in 64..8Ki = 256",
        Field("param", "name", codecs.VARIABLE),
        Field("type", "type", codecs.WORD),
        Field("in", "domain", codecs.DOMAIN, None),
        Field("default", "default", codecs.VALUE, None),
    ),
    Kind(DEFINITION, tree.Let, "let $n = 4", Field("let", "name", codecs.VARIABLE), Field("value", "value", codecs.VALUE)),
    Kind(
        DEFINITION,
        tree.Group,
        "group @ends = first 2, last 1",
        Field("group", "name", codecs.GROUP),
        Field("layers", "layers", codecs.LAYERS),
    ),
    Kind(
        DEFINITION,
        tree.Include,
        'include "common.lbr" sha256 "..."',
        Field("include", "path", codecs.STRING),
        Field("sha256", "sha256", codecs.STRING_OR_NULL, None),
    ),
    _block(MEASURING, "measure"),
    _block(HEALING, "heal"),
    _block(HEALING, "eval"),
    Kind(ASSERTION, tree.Assertion, "assert kv(32Ki) <= 50%", Field("assert", "expr", codecs.CONDITION)),
    Kind(RULE, tree.ElseSelector, "else keep", Field("else", "else", codecs.TRUE)),
    Kind(
        RULE,
        tree.RankSelector,
        "lowest 6 of rest by sensitivity until kv(32Ki) <= 50% drop",
        Field("rank", "direction", codecs.DIRECTION),
        Field("amount", "amount", codecs.AMOUNT, None),
        Field("of_rest", "of_rest", codecs.FLAG, False),
        Field("by", "by", codecs.SCORE),
        Field("until", "bound", codecs.CONDITION, None),
    ),
    Kind(
        RULE,
        tree.ModulesSelector,
        'modules "*.k_proj", ~"v_.*" in layers 4-27 where nll < 0.1 quantize(bits=4)',
        Field("modules", "patterns", list_of(codecs.MODULE_PATTERN, minItems=1)),
        Field("in_layers", "layers", codecs.LAYERS, None),
        Field("where", "where", codecs.CONDITION, None),
    ),
    Kind(
        RULE,
        tree.LayersSelector,
        "layers 0-3 where nll < 0.1 keep",
        Field("layers", "layers", codecs.LAYERS),
        Field("where", "where", codecs.CONDITION, None),
    ),
    Kind(RULE, tree.WhereSelector, "where sensitivity < 0.1 drop", Field("where", "where", codecs.CONDITION)),
)
"""Every statement, in the order in which their keys are looked for."""

STATEMENT = one_of(STATEMENTS, "Statement")
