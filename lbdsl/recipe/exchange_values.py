"""What stands in the values of a recipe's JSON: numbers, texts, calls, and expressions in the language's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lbdsl.actions import actions
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.registry import nearest
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit
from lbdsl.syntax import tree
from lbdsl.syntax.parse import parse
from lbdsl.syntax.words import KEYWORDS

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Values:
    """Reads values into nodes and collects what is wrong; a value with a mistake is None."""

    def __init__(self, name: str):
        self.name = name
        self.nowhere = Span(Source(name, ""), 0, 0)
        self.diagnostics: list[Diagnostic] = []

    def wrong(self, path: str, message: str, *, help: str | tuple[str, ...] = ()) -> None:
        """LB043 at a path."""
        self.diagnostics.append(error("LB043", f"{self.name}: {f'`{path}`: ' if path else ''}{message}", help=help))

    def unknown_key(self, path: str, key: str, known: Iterable[str]) -> None:
        """LB042 at a path, with what may have been meant."""
        names = list(known)
        near = nearest(key, names)
        hints = [f"did you mean `{near}`?"] if near else []
        hints += ["keys: " + ", ".join(f"`{name}`" for name in names)] if names else []
        where = f"`{path}` has no key" if path else "no key"
        self.diagnostics.append(error("LB042", f"{self.name}: {where} `{key}`", help=tuple(hints)))

    # Whole statements hold these ---------------------------------------------------------------------------------------

    def string(self, text: str) -> tree.String:
        return tree.String(self.nowhere, text)

    def variable(self, name: str) -> tree.Variable:
        """A variable by its name, with or without `$`."""
        return tree.Variable(self.nowhere, name.removeprefix("$"))

    def number(self, data: Any, path: str) -> Any:
        node = self.value(data, path)
        if node is not None and not isinstance(node, tree.Number):
            self.wrong(path, "must be a number")
            return None
        return node

    def value(self, data: Any, path: str) -> Any:
        """The node of any value; text is an expression."""
        match data:
            case bool():
                return self._bare("true" if data else "false")
            case int() | float():
                return self._number(data)
            case str():
                return self.condition(data, path)
            case list():
                return tree.Items(self.nowhere, tuple(self.value(item, f"{path}[{i}]") for i, item in enumerate(data)))
            case {"text": str() as text} if len(data) == 1:
                return self.string(text)
            case dict():
                return self._call(data, path)
        self.wrong(path, "must be a number, text, true, false, a list or an object")
        return None

    def _number(self, data: int | float) -> tree.Expr:
        text = repr(data)
        number = tree.Number(self.nowhere, abs(data), Unit.NONE, text.removeprefix("-"))
        return tree.Minus(self.nowhere, number) if text.startswith("-") else number

    def _bare(self, name: str) -> tree.Call:
        return tree.Call(self.nowhere, tree.Ident(self.nowhere, name), None)

    def _call(self, data: dict[Any, Any], path: str) -> Any:
        """{"swa": {"window": 512}} or {"swa": [512]}."""
        if len(data) != 1:
            self.wrong(
                path,
                "a call is an object with one key",
                help=('as in {"swa": {"window": 512}}', 'a text is {"text": "..."}'),
            )
            return None
        name, given = next(iter(data.items()))
        if not _NAME.fullmatch(name) or name in KEYWORDS:
            self.wrong(path, f"`{name}` is no name that can be called")
            return None
        place = f"{path}.{name}"
        if isinstance(given, list):
            args = [tree.Arg(self.nowhere, None, self.value(item, f"{place}[{i}]")) for i, item in enumerate(given)]
        elif isinstance(given, dict):
            if name in actions():
                self._check_parameters(name, given, place)
            args = [self._argument(key, item, place) for key, item in given.items()]
        else:
            self.wrong(
                place,
                "arguments are an object, or a list for arguments without names",
                help=f'a text is {{"text": ...}}; `{name}` without arguments is just "{name}"',
            )
            return None
        return tree.Call(self.nowhere, tree.Ident(self.nowhere, name), tuple(args))

    def _argument(self, key: str, data: Any, path: str) -> tree.Arg:
        if not _NAME.fullmatch(key):
            self.wrong(path, f"`{key}` is no name of an argument")
        return tree.Arg(self.nowhere, tree.Ident(self.nowhere, key), self.value(data, f"{path}.{key}"))

    def _check_parameters(self, name: str, given: dict[str, Any], path: str) -> None:
        known = actions()[name].parameters()
        for key in given:
            if key not in known:
                self.unknown_key(path, key, known)

    def actions(self, data: Any, path: str) -> tuple[Any, ...]:
        """What `do` holds: one action or a list of them."""
        if not isinstance(data, list):
            return self._actions(data, path)
        if not data:
            self.wrong(path, "needs an action")
        return tuple(call for index, item in enumerate(data) for call in self._actions(item, f"{path}[{index}]"))

    def _actions(self, data: Any, path: str) -> tuple[Any, ...]:
        if isinstance(data, str):
            rule = self._parsed("else ", data, path, tree.RuleStatement)
            found = () if rule is None else rule.actions
            if rule is not None and rule.because is not None:
                self.wrong(path, "`because` is a key of its own")
        elif isinstance(data, dict):
            found = (self._call(data, path),)
        else:
            self.wrong(path, 'an action is its name, or an object as in {"swa": {"window": 512}}')
            return ()
        for call in found:
            if call is not None and call.name.name not in actions():
                name = call.name.name
                near = nearest(name, actions())
                self.wrong(
                    path,
                    f"no action `{name}`",
                    help=(
                        *([f"did you mean `{near}`?"] if near else []),
                        "actions: " + ", ".join(f"`{known}`" for known in actions()),
                    ),
                )
        return found

    def score(self, data: Any, path: str) -> Any:
        """What `by` holds: a metric, as text or as a call."""
        node = self.value(data, path)
        if node is not None and not isinstance(node, tree.Call):
            self.wrong(path, 'must be a metric, as in "sensitivity" or {"kl": ["drop"]}')
            return None
        return node

    def pattern(self, data: Any, path: str) -> tree.String | tree.Pattern | None:
        match data:
            case str():
                return self.string(data)
            case {"regex": str() as text} if len(data) == 1:
                return tree.Pattern(self.nowhere, text)
        self.wrong(path, 'must be a glob, or {"regex": "..."}')
        return None

    # Text in the language ------------------------------------------------------------------------------------------------

    def condition(self, data: Any, path: str) -> Any:
        """An expression in the language's words; true, false and plain numbers need no quotes."""
        if isinstance(data, bool | int | float):
            return self.value(data, path)
        let = self._parsed("let $it = ", data, path, tree.Let)
        return None if let is None else let.value

    def layers(self, data: Any, path: str) -> Any:
        """A set of layers; a single layer may be a number."""
        group = self._parsed("group @it = ", _numeral(data), path, tree.Group)
        return None if group is None else group.layers

    def amount(self, data: Any, path: str) -> Any:
        """How many layers: a count, a share, or a variable."""
        group = self._parsed("group @it = first ", _numeral(data), path, tree.Group)
        if group is not None and not isinstance(group.layers, tree.Edge):
            self.wrong(path, 'must be an amount, as in 6, "10%" or "$n"')
            return None
        return None if group is None else group.layers.amount

    def domain(self, data: Any, path: str) -> Any:
        match data:
            case list():
                if not data:
                    self.wrong(path, "needs a value")
                return tree.Choice(self.nowhere, tuple(self.value(item, f"{path}[{i}]") for i, item in enumerate(data)))
            case {"from": low, "to": high} if len(data) == 2:
                return tree.Interval(self.nowhere, self.value(low, f"{path}.from"), self.value(high, f"{path}.to"))
            case str():
                param = self._parsed("param $it: int in ", data, path, tree.Param)
                return None if param is None else param.domain
        self.wrong(path, 'must be {"from": 64, "to": "8Ki"}, "64..8Ki", or a list of values')
        return None

    def _parsed(self, before: str, data: Any, path: str, kind: type[Any]) -> Any:
        """The statement `before` + text, with LB044 at what is wrong in the text. It must be one statement of that kind."""
        if not isinstance(data, str):
            self.wrong(path, "must be text in the recipe language")
            return None
        source = Source(f"{self.name}: {path}", data)
        parsed = parse(Source("", before + data), actions=actions())
        file = parsed.value
        for problem in [problem for problem in parsed.diagnostics if problem.is_error][:1]:
            start, end = (problem.span.start, problem.span.end) if problem.span else (len(before), len(before))
            span = source.span(max(0, start - len(before)), max(0, end - len(before)))
            # The form of the statement that the text was put into would only confuse.
            hints = tuple(text for text in problem.help if not text.startswith("the form is"))
            self.diagnostics.append(error("LB044", problem.message, span, help=(*hints, *_quote_help(data, path))))
            return None
        if file is None or len(file.statements) != 1 or not isinstance(file.statements[0], kind) or file.comments:
            self.diagnostics.append(
                error(
                    "LB044", f"{self.name}: `{path}` must hold one expression and nothing else", source.span(0, len(data))
                )
            )
            return None
        if kind is tree.Param and file.statements[0].default is not None:
            self.wrong(path, "a domain has no `=`; the default is a key of its own")
            return None
        return file.statements[0]


def _quote_help(data: str, path: str) -> tuple[str, ...]:
    """For text that was meant as text: `data: builtin:pydoc`."""
    if path.endswith((".data", ".default", ".value")) and '"' not in data:
        return (f'a text is written as {{"text": "{data}"}}',)
    return ()


def _numeral(data: Any) -> Any:
    """A whole number as its text, so that it need not be quoted."""
    return str(data) if isinstance(data, int) and not isinstance(data, bool) else data
