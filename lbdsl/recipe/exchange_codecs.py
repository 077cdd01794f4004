"""Kinds of values in a recipe's JSON: how each is read into the tree, written from it, and described in the schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lbdsl.actions import actions
from lbdsl.core.units import Unit
from lbdsl.language import tree
from lbdsl.language.tree_text import node_text
from lbdsl.recipe.exchange_reader import NAME, NOWHERE, JsonReader, Schema, each_item
from lbdsl.recipe.settings import SETTINGS


class Codec(NamedTuple):
    """A kind of value. `name` is that of its definition in the schema; a value without one is described in place.

    `item` is the codec of what a list holds.
    """

    read: Callable[[JsonReader, Any, str], Any]
    write: Callable[[Any], Any]
    schema: Schema
    name: str = ""
    item: Codec | None = None

    def reference(self) -> Schema:
        """What stands in the schema where such a value may be."""
        return {"$ref": f"#/$defs/{self.name}"} if self.name else self.schema


# Writing -------------------------------------------------------------------------------------------------------------

_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")


def _number_data(node: tree.Number) -> int | float | str:
    """A JSON number where that reads back as the same text, else the text."""
    if node.unit is Unit.NONE and isinstance(node.value, int) and str(node.value) == node.text:
        return node.value
    # Without an exponent, which YAML's readers do not agree on.
    if node.unit is Unit.NONE and _DECIMAL.fullmatch(node.text) and repr(node.value) == node.text:
        return node.value
    return node.text


def _value_data(node: tree.Expr) -> Any:
    """A value: a number, a boolean, `{"text": ...}` for a string, a list, a call, or any other expression as text."""
    match node:
        case tree.Number():
            return _number_data(node)
        case tree.Minus(operand=tree.Number() as operand):
            number = _number_data(operand)
            return -number if isinstance(number, int | float) and number else node_text(node)
        case tree.String():
            return {"text": node.value}
        case tree.Items():
            return [_value_data(item) for item in node.items]
        case tree.Call(name=tree.Ident(name="true" | "false"), args=None):
            return node.name.name == "true"
        case tree.Call():
            return _call_data(node)
    return node_text(node)


def _call_data(node: tree.Call) -> Any:
    """`keep` by its name, `swa(window=4)` as {"swa": {"window": 4}}, `swa(4)` as {"swa": [4]}, and a mixed one as text."""
    if node.args is None:
        return node.name.name
    keys = [arg.key.name for arg in node.args if arg.key is not None]
    values = [_value_data(arg.value) for arg in node.args]
    if not keys:
        return {node.name.name: values}
    if len(keys) == len(values) == len(set(keys)):
        return {node.name.name: dict(zip(keys, values, strict=True))}
    return node_text(node)


def _actions_data(calls: tuple[tree.Call, ...]) -> Any:
    return _call_data(calls[0]) if len(calls) == 1 else [_call_data(call) for call in calls]


def _layers_data(node: tree.LayerSet) -> Any:
    return _value_data(node.value) if isinstance(node, tree.Point) else node_text(node)


def _domain_data(node: tree.Interval | tree.Choice) -> Any:
    if isinstance(node, tree.Choice):
        return [_value_data(option) for option in node.options]
    return {"from": _value_data(node.low), "to": _value_data(node.high)}


def _pattern_data(node: tree.Pattern | tree.String) -> Any:
    return {"regex": node.value} if isinstance(node, tree.Pattern) else node.value


# Parts of the schema -------------------------------------------------------------------------------------------------


def any_schema(*forms: Schema, **more: Any) -> Schema:
    return {"anyOf": [*forms], **more}


def array_schema(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def object_schema(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    """An object with these keys and no others; all are required unless `required` names those that are."""
    keys = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}


_TEXT, _NUMBER, _BOOLEAN = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_EXPRESSION = {**_TEXT, "description": "An expression in the recipe language, such as `8Ki` or `$window`."}
_ANY_VALUE, _ACTION = {"$ref": "#/$defs/Value"}, {"$ref": "#/$defs/Action"}
_CALL = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "propertyNames": {"pattern": f"^{NAME}$"},
    "additionalProperties": any_schema({"type": "object", "additionalProperties": _ANY_VALUE}, array_schema(_ANY_VALUE)),
    "description": 'A call: {"lora": {"rank": 16}} with named arguments, {"kl": ["drop"]} with others.',
}


def action_schemas() -> dict[str, Schema]:
    """`Action`, with one form for each registered action, and what its parameters refer to."""
    definitions: dict[str, Schema] = {}
    calls: list[Schema] = []
    for kind, cls in actions().items():
        schema = cls.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        fields = {name: schema["properties"][name] for name in cls.parameters()}
        # The unit of a field is lbdsl's own word.
        parameters = {
            name: any_schema({key: value for key, value in field.items() if key != "unit"}, _EXPRESSION)
            for name, field in fields.items()
        }
        required = [name for name in schema.get("required", []) if name in parameters]
        listed = {"type": "array", "prefixItems": list(parameters.values()), "items": False, "minItems": len(required)}
        if not parameters:
            listed = {"type": "array", "maxItems": 0}
        summary = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
        call = object_schema({kind: any_schema(object_schema(parameters, required), listed)})
        calls.append({"type": "object", "description": summary, **call})
    by_name = {**_TEXT, "description": "An action in the recipe language: " + ", ".join(actions()) + "."}
    return {**definitions, "Action": any_schema(by_name, *calls)}


# The codecs ----------------------------------------------------------------------------------------------------------


def _same(**schema: Any) -> Codec:
    """A value that is in the tree as it is in JSON."""
    return Codec(lambda reader, data, path: data, lambda value: value, schema)


def _name(kind: type[Any], sign: str = "") -> Codec:
    """A node that is a name; its sign may be left out."""
    optional = f"{re.escape(sign)}?" if sign else ""
    return Codec(
        lambda reader, data, path: kind(NOWHERE, data.removeprefix(sign)),
        lambda node: f"{sign}{node.name}",
        {"type": "string", "pattern": f"^{optional}{NAME}$"},
    )


def list_of(codec: Codec, **limits: int) -> Codec:
    return Codec(
        lambda reader, data, path: each_item(partial(codec.read, reader), data, path),
        lambda nodes: [codec.write(node) for node in nodes],
        array_schema(codec.reference(), **limits),
        item=codec,
    )


def settings_of(block: str) -> Codec:
    """The settings of a block, from the table that the language has of them."""
    name = f"{block.title()}Settings"
    known = {k: {**_ANY_VALUE, "description": row.meaning, "title": k.title()} for k, row in SETTINGS[block].items()}
    return Codec(
        JsonReader.settings,
        lambda settings: {setting.key.name: _value_data(setting.value) for setting in settings},
        {"additionalProperties": False, "properties": known, "title": name, "type": "object"},
        name,
    )


STRING = Codec(lambda reader, data, path: tree.String(NOWHERE, data), lambda node: node.value, _TEXT)
STRING_OR_NULL = Codec(
    lambda reader, data, path: None if data is None else tree.String(NOWHERE, data),
    lambda node: node.value,
    any_schema(_TEXT, {"type": "null"}),
)
WORD = _name(tree.Ident)
VARIABLE = _name(tree.Variable, "$")
GROUP = _name(tree.GroupRef, "@")
DIRECTION = _same(enum=["lowest", "highest"], type="string")
FLAG = _same(default=False, type="boolean")
TRUE = _same(const=True, type="boolean")
_A_TEXT = {**object_schema({"text": _TEXT}), "description": "A text, in contrast to an expression."}
VALUE = Codec(
    JsonReader.value,
    _value_data,
    any_schema(_NUMBER, _BOOLEAN, _EXPRESSION, _A_TEXT, array_schema(_ANY_VALUE), _CALL),
    "Value",
)
NUMBER = VALUE._replace(read=JsonReader.number)
_ABOUT_CONDITIONS = "A condition in the recipe language, such as `nll < 0.1 and kl(drop) < 0.2`."
CONDITION = Codec(
    JsonReader.condition, node_text, any_schema(_TEXT, _NUMBER, _BOOLEAN, description=_ABOUT_CONDITIONS), "Condition"
)
_ABOUT_LAYERS = "A set of layers in the recipe language, such as `0-3, last 2 except 1` or `@ends`."
LAYERS = Codec(JsonReader.layers, _layers_data, any_schema(_TEXT, _COUNT, description=_ABOUT_LAYERS), "Layers")
_ABOUT_AMOUNTS = "A number of layers, a share such as `10%`, or a variable."
AMOUNT = Codec(JsonReader.amount, _value_data, any_schema(_TEXT, _COUNT, description=_ABOUT_AMOUNTS), "Amount")
SCORE = Codec(JsonReader.score, _call_data, any_schema(_TEXT, _CALL), "Score")
_INTERVAL = object_schema({"from": _ANY_VALUE, "to": _ANY_VALUE})
DOMAIN = Codec(
    JsonReader.domain, _domain_data, any_schema(_INTERVAL, array_schema(_ANY_VALUE, minItems=1), _TEXT), "Domain"
)
MODULE_PATTERN = Codec(
    JsonReader.module_pattern, _pattern_data, any_schema(_TEXT, object_schema({"regex": _TEXT})), "ModulePattern"
)
ACTIONS = Codec(JsonReader.actions, _actions_data, any_schema(_ACTION, array_schema(_ACTION, minItems=1)), "Actions")
