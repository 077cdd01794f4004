"""What is checked of a recipe's JSON before it is made text: keys, plain values, and text in the recipe language. Every
mistake is found in one run, each with its path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from lbdsl.actions import actions
from lbdsl.core.registry import nearest
from lbdsl.core.span import Source
from lbdsl.language.format import canonical_part
from lbdsl.language.parse import parse
from lbdsl.recipe.scope import Findings, T, Unresolved, each, meant_words

Schema = dict[str, Any]
"""A part of the JSON schema."""

NAME = "[A-Za-z_][A-Za-z0-9_]*"


@dataclass
class JsonReader(Findings):
    """Collects what is wrong; a value with a mistake raises `Unresolved`.

    Errors: LB042 unknown keys, LB043 keys that lack or have the wrong value, LB044 text that does not parse.
    """

    name: str

    def wrong(self, path: str, message: str, *, help: str | tuple[str, ...] = ()) -> None:
        """LB043 at a path."""
        self.error("LB043", f"{self.name}: {f'`{path}`: ' if path else ''}{message}", None, help=help)

    def refuse(self, path: str, message: str, *, help: str | tuple[str, ...] = ()) -> NoReturn:
        """LB043 for a value that cannot be read."""
        self.wrong(path, message, help=help)
        raise Unresolved

    def unknown_key(self, path: str, key: str, known: Iterable[str]) -> None:
        """LB042 at a path, with what may have been meant."""
        names = list(known)
        hints = [*meant_words(key, names)[0]]
        hints += ["keys: " + ", ".join(f"`{name}`" for name in names)] if names else []
        where = f"`{path}` has no key" if path else "no key"
        self.error("LB042", f"{self.name}: {where} `{key}`", None, help=tuple(hints))

    # Keys and plain values -------------------------------------------------------------------------------------------

    def fits(self, schema: Schema, data: Any, path: str) -> bool:
        """Whether data has the keys and the plain values that a schema wants. Unknown keys are told first.

        Definitions that the schema refers to are left to those who read such values.
        """
        inner = JsonReader(self.name)
        inner._check(schema, data, path)
        self.diagnostics += sorted(inner.diagnostics, key=lambda problem: problem.code)
        return not inner.diagnostics

    def _check(self, schema: Schema, data: Any, path: str) -> None:
        mistake = _mistake(schema, data)
        if mistake:
            self.wrong(path, mistake)
        elif "properties" in schema:
            self._check_keys(schema["properties"], schema.get("required", []), data, path)

    def _check_keys(self, known: dict[str, Schema], required: list[str], data: dict[str, Any], path: str) -> None:
        unknown = [key for key in data if key not in known]
        # A key that is misspelt is not missing, too.
        meant = {nearest(key, known) for key in unknown}
        for key, schema in known.items():
            if key in data:
                self._check(schema, data[key], f"{path}.{key}" if path else key)
            elif key in required and key not in meant:
                self.wrong(path, f"needs `{key}`")
        for key in unknown:
            self.unknown_key(path, key, known)

    # Text in the language --------------------------------------------------------------------------------------------

    def parsed(self, before: str, data: Any, path: str) -> tuple[Any, str]:
        """The statement `before` + data, and the canonical text of what data adds; LB044 at what is wrong in it."""
        if not isinstance(data, str):
            self.refuse(path, "must be text in the recipe language")
        source = Source(f"{self.name}: {path}", data)
        file, found = parse(Source("", before + data), actions=actions())
        problem = next((problem for problem in found if problem.is_error), None)
        if problem is not None:
            start, end = (problem.span.start, problem.span.end) if problem.span else (len(before), len(before))
            span = source.span(max(0, start - len(before)), max(0, end - len(before)))
            # The form of the statement that the text was put into would only confuse.
            hints = [text for text in problem.help if not text.startswith("the form is")]
            if path.endswith((".data", ".default", ".value")) and '"' not in data:
                hints.append(f'a string is written as {{"text": "{data}"}}')
            self.fail("LB044", problem.message, span, help=tuple(hints))
        if file is None or len(file.statements) != 1 or file.comments:
            message = f"{self.name}: `{path}` must hold one expression and nothing else"
            self.fail("LB044", message, source.span(0, len(data)))
        return file.statements[0], canonical_part(before, data)


def _mistake(schema: Schema, data: Any) -> str:
    """What is wrong with a plain value; "" if nothing is, or if it is not a plain one that the schema wants."""
    match schema:
        case {"anyOf": [given, {"type": "null"}]}:
            return "" if data is None else _mistake(given, data)
        case {"type": "integer"} if isinstance(data, bool):
            return "must be a number"
        case {"type": "integer", "const": number} if data != number:
            return f"must be {number}"
        case {"type": "boolean", "const": True} if data is not True:
            return "must be `true`"
        case {"type": "boolean"} if not isinstance(data, bool):
            return "must be true or false"
        case {"enum": choices} if data not in choices:
            return "must be " + " or ".join(f"`{choice}`" for choice in choices)
        case {"type": "string"} if not isinstance(data, str):
            return "must be text"
        case {"type": "string", "pattern": pattern} if not re.fullmatch(pattern, data):
            return "must be a name"
        case {"type": "array"} if not isinstance(data, list):
            return "must be a list"
        case {"type": "array", "minItems": least} if len(data) < least:
            return "must not be empty"
        case {"type": "object"} if not isinstance(data, dict):
            return "must be an object"
    return ""


def each_item(read: Callable[[Any, str], T], data: list[Any], path: str) -> tuple[T, ...]:
    """The items of a list, each read at its own path."""
    return each(lambda item: read(item[1], f"{path}[{item[0]}]"), enumerate(data))
