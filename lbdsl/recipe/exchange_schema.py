"""The JSON schema (draft 2020-12) of recipes as JSON or YAML: for editors, and for programs that write recipes.

Statements come from the pydantic models of `exchange_models`, actions and their parameters from the registry of actions,
settings from the language's table. Text that holds an expression is any text here; its grammar is the language's.
"""

from __future__ import annotations

from typing import Any

from lbdsl.actions import actions
from lbdsl.recipe.exchange_models import (
    FORMAT_VERSION,
    MARK,
    Document,
    Form,
    statement_forms,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EXPRESSION = {"type": "string", "description": "An expression in the recipe language, such as `8Ki` or `$window`."}
_OBJECT_OF_ONE = {"type": "object", "minProperties": 1, "maxProperties": 1}


def recipe_schema() -> dict[str, Any]:
    """The schema, with one definition for each kind of statement."""
    definitions: dict[str, Any] = {}
    statements = [_add(definitions, form) for form in statement_forms().values()]
    definitions |= {**_values(), **_actions(), "Statement": {"anyOf": statements}}
    document = _own(Document, definitions)
    return {
        "$schema": DIALECT,
        "$id": f"urn:lbdsl:recipe:{FORMAT_VERSION}",
        "title": "lbdsl recipe",
        "description": "A recipe for compressing a language model, as `lbdsl convert` writes it.",
        **{key: value for key, value in document.items() if key not in ("title", "description")},
        "$defs": dict(sorted(definitions.items())),
    }


def _add(definitions: dict[str, Any], form: type[Form]) -> dict[str, Any]:
    """Put a form's schema among the definitions; a reference to it."""
    definitions[form.__name__] = _own(form, definitions)
    return {"$ref": f"#/$defs/{form.__name__}"}


def _own(form: type[Form], definitions: dict[str, Any]) -> dict[str, Any]:
    """A form's schema, with the definitions that it brings moved to the others."""
    schema = _linked(form.model_json_schema(by_alias=True, ref_template="#/$defs/{model}"))
    definitions |= schema.pop("$defs", {})
    return schema


def _linked(schema: Any) -> Any:
    """The marks of `exchange_models` as references. `null` for "not given" is no form that is written, and goes."""
    if isinstance(schema, list):
        return [_linked(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if MARK in schema:
        rest = {key: value for key, value in schema.items() if key in ("description", "title")}
        return {"$ref": f"#/$defs/{schema[MARK]}", **rest}
    return {key: _linked(value) for key, value in schema.items() if (key, value) != ("default", None)}


def _values() -> dict[str, Any]:
    ref = {"$ref": "#/$defs/Value"}
    call = {
        **_OBJECT_OF_ONE,
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {
            "anyOf": [{"type": "object", "additionalProperties": ref}, {"type": "array", "items": ref}]
        },
        "description": 'A call: {"lora": {"rank": 16}} with named arguments, {"kl": ["drop"]} with others.',
    }
    text = {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
        "description": "A text, in contrast to an expression.",
    }
    condition = {
        "anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}],
        "description": "A condition in the recipe language, such as `nll < 0.1 and kl(drop) < 0.2`.",
    }
    items = {"type": "array", "items": ref}
    return {
        "Value": {"anyOf": [{"type": "number"}, {"type": "boolean"}, _EXPRESSION, text, items, call]},
        "Condition": condition,
        "Layers": {
            "anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}],
            "description": "A set of layers in the recipe language, such as `0-3, last 2 except 1` or `@ends`.",
        },
        "Amount": {
            "anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}],
            "description": "A number of layers, a share such as `10%`, or a variable.",
        },
        "Score": {"anyOf": [{"type": "string"}, call]},
        "Domain": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"from": ref, "to": ref},
                    "required": ["from", "to"],
                    "additionalProperties": False,
                },
                {"type": "array", "items": ref, "minItems": 1},
                {"type": "string"},
            ]
        },
        "ModulePattern": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"regex": {"type": "string"}},
                    "required": ["regex"],
                    "additionalProperties": False,
                },
            ]
        },
    }


def _actions() -> dict[str, Any]:
    """`Action` with one form for each registered action, and `Actions`, which `do` holds."""
    definitions: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for kind, cls in actions().items():
        schema = cls.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        parameters = {
            name: {"anyOf": [_without_unit(schema["properties"][name]), _EXPRESSION]} for name in cls.parameters()
        }
        required = [name for name in schema.get("required", []) if name in parameters]
        named = {"type": "object", "properties": parameters, "required": required, "additionalProperties": False}
        listed = {"type": "array", "prefixItems": list(parameters.values()), "items": False, "minItems": len(required)}
        if not parameters:
            listed = {"type": "array", "maxItems": 0}
        summary = (cls.__doc__ or "").strip().split("\n\n")[0]
        calls.append(
            {
                "type": "object",
                "description": " ".join(summary.split()),
                "properties": {kind: {"anyOf": [named, listed]}},
                "required": [kind],
                "additionalProperties": False,
            }
        )
    bare = {"type": "string", "description": "An action in the recipe language: " + ", ".join(actions()) + "."}
    definitions["Action"] = {"anyOf": [bare, *calls]}
    one = {"$ref": "#/$defs/Action"}
    definitions["Actions"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    return definitions


def _without_unit(schema: dict[str, Any]) -> dict[str, Any]:
    """A field's schema without lbdsl's own word in it."""
    return {key: value for key, value in schema.items() if key != "unit"}
