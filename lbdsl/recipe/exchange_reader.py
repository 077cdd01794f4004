"""What stands in a recipe's JSON to nodes of the tree. Every mistake is found in one run, each with its path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from lbdsl.actions import actions
from lbdsl.core.registry import nearest
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit
from lbdsl.language import tree
from lbdsl.language.parse import parse
from lbdsl.language.words import KEYWORDS
from lbdsl.recipe.scope import Findings, T, Unresolved, attempt, each, meant_words

Schema = dict[str, Any]
"""A part of the JSON schema."""

NAME = "[A-Za-z_][A-Za-z0-9_]*"
NOWHERE = Span(Source("", ""), 0, 0)
"""The place of nodes that were read from JSON."""


@dataclass
class JsonReader(Findings):
    """Reads values into nodes and collects what is wrong; a value with a mistake raises `Unresolved`.

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

    # Values ----------------------------------------------------------------------------------------------------------

    def value(self, data: Any, path: str) -> Any:
        """The node of any value; text is an expression."""
        match data:
            case bool():
                return tree.Call(NOWHERE, tree.Ident(NOWHERE, "true" if data else "false"), None)
            case int() | float():
                text = repr(data)
                number = tree.Number(NOWHERE, abs(data), Unit.NONE, text.removeprefix("-"))
                return tree.Minus(NOWHERE, number) if text.startswith("-") else number
            case str():
                return self.condition(data, path)
            case list():
                return tree.Items(NOWHERE, self._values(data, path))
            case {"text": str() as text} if len(data) == 1:
                return tree.String(NOWHERE, text)
            case dict():
                return self._call(data, path)
        self.refuse(path, "must be a number, text, true, false, a list or an object")

    def _values(self, data: list[Any], path: str) -> tuple[Any, ...]:
        return each_item(self.value, data, path)

    def _call(self, data: dict[str, Any], path: str) -> tree.Call:
        """{"swa": {"window": 512}} or {"swa": [512]}."""
        if len(data) != 1:
            hints = ('as in {"swa": {"window": 512}}', 'a string is {"text": "..."}')
            self.refuse(path, "a call is an object with one key", help=hints)
        name, given = next(iter(data.items()))
        if not re.fullmatch(NAME, name) or name in KEYWORDS:
            self.refuse(path, f"`{name}` is not a name that can be called")
        place = f"{path}.{name}"
        if isinstance(given, list):
            args = attempt(each_item, lambda item, at: tree.Arg(NOWHERE, None, self.value(item, at)), given, place)
        elif isinstance(given, dict):
            parameters = actions()[name].parameters() if name in actions() else given
            for key in given:
                if key not in parameters:
                    self.unknown_key(place, key, parameters)
            args = attempt(each, lambda item: self._argument(item[0], item[1], place), given.items())
        else:
            hint = f'a string is {{"text": ...}}; `{name}` without arguments is just "{name}"'
            self.refuse(place, "arguments are an object, or a list for arguments without names", help=hint)
        # Also with mistakes in its arguments: it is still to be seen whether there is such an action.
        return tree.Call(NOWHERE, tree.Ident(NOWHERE, name), args or ())

    def _argument(self, key: str, data: Any, path: str) -> tree.Arg:
        if not re.fullmatch(NAME, key):
            self.wrong(path, f"`{key}` is not a valid argument name")
        return tree.Arg(NOWHERE, tree.Ident(NOWHERE, key), self.value(data, f"{path}.{key}"))

    def number(self, data: Any, path: str) -> Any:
        return self._only(tree.Number, self.value(data, path), path, "must be a number")

    def score(self, data: Any, path: str) -> Any:
        """What `by` holds: a metric, as text or as a call."""
        message = 'must be a metric, as in "sensitivity" or {"kl": ["drop"]}'
        return self._only(tree.Call, self.value(data, path), path, message)

    def _only(self, kind: type[tree.Node], node: tree.Node, path: str, message: str) -> Any:
        """The node, which must be of that kind."""
        if not isinstance(node, kind):
            self.refuse(path, message)
        return node

    def actions(self, data: Any, path: str) -> tuple[Any, ...]:
        """What `do` holds: one action or a list of them."""
        if not isinstance(data, list):
            return self._action(data, path)
        if not data:
            self.refuse(path, "needs an action")
        return tuple(call for calls in each_item(self._action, data, path) for call in calls)

    def _action(self, data: Any, path: str) -> tuple[Any, ...]:
        if isinstance(data, str):
            rule = self._statement("else ", data, path)
            found = rule.actions
            if rule.because is not None:
                self.wrong(path, "`because` is a key of its own")
        elif isinstance(data, dict):
            found = (self._call(data, path),)
        else:
            self.refuse(path, 'an action is its name, or an object as in {"swa": {"window": 512}}')
        for name in [call.name.name for call in found]:
            if name not in actions():
                known = "actions: " + ", ".join(f"`{action}`" for action in actions())
                self.wrong(path, f"no action `{name}`", help=(*meant_words(name, actions())[0], known))
        return found

    def module_pattern(self, data: Any, path: str) -> tree.String | tree.Pattern:
        match data:
            case str():
                return tree.String(NOWHERE, data)
            case {"regex": str() as text} if len(data) == 1:
                return tree.Pattern(NOWHERE, text)
        self.refuse(path, 'must be a glob, or {"regex": "..."}')

    def settings(self, data: dict[str, Any], path: str) -> tuple[tree.Setting, ...]:
        """The settings of a block."""

        def setting(key: str, value: Any) -> tree.Setting:
            return tree.Setting(NOWHERE, tree.Ident(NOWHERE, key), self.value(value, f"{path}.{key}"))

        return each(lambda item: setting(*item), data.items())

    # Text in the language --------------------------------------------------------------------------------------------

    def condition(self, data: Any, path: str) -> Any:
        """An expression in the language's words; true, false and plain numbers need no quotes."""
        if isinstance(data, bool | int | float):
            return self.value(data, path)
        return self._statement("let $it = ", data, path).value

    def layers(self, data: Any, path: str) -> Any:
        """A set of layers; a single layer may be a number."""
        return self._statement("group @it = ", _numeral(data), path).layers

    def amount(self, data: Any, path: str) -> Any:
        """How many layers: a count, a share, or a variable."""
        group = self._statement("group @it = first ", _numeral(data), path)
        return self._only(tree.Edge, group.layers, path, 'must be an amount, as in 6, "10%" or "$n"').amount

    def domain(self, data: Any, path: str) -> Any:
        match data:
            case list():
                if not data:
                    self.refuse(path, "needs a value")
                return tree.Choice(NOWHERE, self._values(data, path))
            case {"from": low, "to": high} if len(data) == 2:
                ends = ((low, f"{path}.from"), (high, f"{path}.to"))
                return tree.Interval(NOWHERE, *each(lambda end: self.value(*end), ends))
            case str():
                param = self._statement("param $it: int in ", data, path)
                if param.default is not None:
                    self.refuse(path, "a domain has no `=`; the default is a key of its own")
                return param.domain
        self.refuse(path, 'must be {"from": 64, "to": "8Ki"}, "64..8Ki", or a list of values')

    def _statement(self, before: str, data: Any, path: str) -> Any:
        """The statement `before` + text, with LB044 at what is wrong in the text."""
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
        return file.statements[0]


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


def _numeral(data: Any) -> Any:
    """A whole number as its text, so that it need not be quoted."""
    return str(data) if isinstance(data, int) and not isinstance(data, bool) else data
