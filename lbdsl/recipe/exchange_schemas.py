"""Kinds of values in a recipe's JSON, and parts of its JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lbdsl.actions import actions
from lbdsl.recipe.exchange_reader import JsonReader

Schema = dict[str, Any]

NAME = "[A-Za-z_][A-Za-z0-9_]*"


class Kind(NamedTuple):
    """A kind of value. `name` is that of its definition in the schema; without a name the schema is inlined."""

    read: Callable[[JsonReader, Any, str], str]
    write: Callable[[Any], Any]
    schema: Schema
    name: str = ""

    def reference(self) -> Schema:
        """The schema of a place for such a value: a `$ref`, or the schema itself."""
        return {"$ref": f"#/$defs/{self.name}"} if self.name else self.schema


def any_schema(*forms: Schema, **more: Any) -> Schema:
    return {"anyOf": [*forms], **more}


def array_schema(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def object_schema(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    """An object with these keys and no others; all are required unless `required` names those that are."""
    keys = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}


TEXT, NUMBER, BOOLEAN = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
EXPRESSION = {**TEXT, "description": "An expression in the recipe language, such as `8Ki` or `$window`."}
ANY_VALUE, ACTION = {"$ref": "#/$defs/Value"}, {"$ref": "#/$defs/Action"}
CALL = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "propertyNames": {"pattern": f"^{NAME}$"},
    "additionalProperties": any_schema({"type": "object", "additionalProperties": ANY_VALUE}, array_schema(ANY_VALUE)),
    "description": 'A call: {"lora": {"rank": 16}} with named arguments, {"kl": ["drop"]} with others.',
}


def action_schemas() -> dict[str, Schema]:
    """The definition of `Action`, with one form for each registered action, and those that its parameters refer to."""
    definitions: dict[str, Schema] = {}
    calls: list[Schema] = []
    for kind, cls in actions().items():
        schema = cls.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        fields = {name: schema["properties"][name] for name in cls.parameters()}
        # `unit` is lbdsl's own key, unknown to JSON schema.
        parameters = {
            name: any_schema({key: value for key, value in field.items() if key != "unit"}, EXPRESSION)
            for name, field in fields.items()
        }
        required = [name for name in schema.get("required", []) if name in parameters]
        listed = {"type": "array", "prefixItems": list(parameters.values()), "items": False, "minItems": len(required)}
        if not parameters:
            listed = {"type": "array", "maxItems": 0}
        summary = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
        call = object_schema({kind: any_schema(object_schema(parameters, required), listed)})
        calls.append({"type": "object", "description": summary, **call})
    by_name = {**TEXT, "description": "An action in the recipe language: " + ", ".join(actions()) + "."}
    return {**definitions, "Action": any_schema(by_name, *calls)}
