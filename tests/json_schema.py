"""JSON schema, draft 4, as far as the schema of SARIF uses it: every keyword there is checked, others raise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
_SAID = {"$schema", "id", "title", "description", "default", "definitions", "format"}
_KNOWN = _SAID | {
    "$ref",
    "type",
    "enum",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "uniqueItems",
    "minimum",
    "maximum",
    "pattern",
    "anyOf",
    "oneOf",
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "$") -> Iterator[str]:
    """What is wrong with `value`, each with its place."""
    assert schema.keys() <= _KNOWN, schema.keys() - _KNOWN
    if "$ref" in schema:
        assert schema["$ref"].startswith("#/")
        target: Any = root
        for part in schema["$ref"][2:].split("/"):
            target = target[part]
        yield from problems(value, target, root, path)
        return
    kinds = schema.get("type")
    if kinds is not None:
        allowed = [kinds] if isinstance(kinds, str) else kinds
        if not any(
            isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in allowed
        ):
            yield f"{path}: {value!r} is no {kinds}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if "anyOf" in schema and all(list(problems(value, part, root)) for part in schema["anyOf"]):
        yield f"{path}: fits none of anyOf"
    if "oneOf" in schema and sum(not list(problems(value, part, root)) for part in schema["oneOf"]) != 1:
        yield f"{path}: does not fit exactly one of oneOf"
    if isinstance(value, dict):
        yield from _object(value, schema, root, path)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{path}: too few items"
        if schema.get("uniqueItems") and any(a == b for i, a in enumerate(value) for b in value[:i]):
            yield f"{path}: items are repeated"
        if "items" in schema:
            for index, item in enumerate(value):
                yield from problems(item, schema["items"], root, f"{path}[{index}]")
    elif isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
    elif (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and not (schema.get("minimum", value) <= value <= schema.get("maximum", value))
    ):
        yield f"{path}: {value} is out of range"


def _object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{path}: `{key}` is missing"
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in known:
            yield from problems(item, known[key], root, f"{path}.{key}")
        elif rest is False:
            yield f"{path}: `{key}` is not known"
        elif isinstance(rest, dict):
            yield from problems(item, rest, root, f"{path}.{key}")
