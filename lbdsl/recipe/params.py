"""Parameters: `param $w: tokens in 64..8Ki = 256`, and the values that `--set` gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from lbdsl.core.diagnostic import Label
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit
from lbdsl.recipe.constants import SET, constant
from lbdsl.recipe.scope import Constant, Scope
from lbdsl.syntax import tree
from lbdsl.syntax.parse import parse

TYPES: Mapping[str, tuple[str, tuple[Unit, ...], bool]] = {
    "int": ("number", (Unit.NONE,), True),
    "float": ("number", (Unit.NONE,), False),
    "ratio": ("number", (Unit.RATIO, Unit.NONE), False),
    "tokens": ("number", (Unit.TOKENS, Unit.NONE), True),
    "bytes": ("number", (Unit.BYTES, Unit.NONE), True),
    "str": ("text", (Unit.NONE,), False),
    "bool": ("boolean", (Unit.NONE,), False),
}
"""Type -> kind of value, units it may be written in (the first is the parameter's unit), whether it is whole."""


class Outside(NamedTuple):
    """A value from `--set`: None when it could not be read."""

    value: Constant | None
    text: str


def outside_values(
    scope: Scope,
    statements: Sequence[tree.Statement],
    set_params: Mapping[str, object],
) -> dict[str, Outside]:
    """The values of `--set`, read by the type that the recipe declares; a number or a truth value stands for its text.
    Names that it does not have are errors."""
    declared = {statement.name.name: statement for statement in statements if isinstance(statement, tree.Param)}
    found: dict[str, Outside] = {}
    for given, value in set_params.items():
        text = value if isinstance(value, str) else str(value).lower()
        name = given.removeprefix("$")
        param = declared.get(name)
        if param is None:
            place = Span(Source(SET, f"{given}={text}"), 0, len(given))
            scope.unknown("LB118", f"the recipe has no parameter `${name}`", name, place, declared, "parameters")
        else:
            found[name] = Outside(_read(scope, name, text, param), text)
    return found


def resolve_param(scope: Scope, node: tree.Param, outside: Outside | None) -> Constant | None:
    """The value in force: of `--set`, else the default. Defines the variable; None with an error."""
    name = node.name.name
    value = _value(scope, node, outside)
    if not scope.define("$", name, node.name.span):
        return None
    scope.variables[name] = value
    return value


def _value(scope: Scope, node: tree.Param, outside: Outside | None) -> Constant | None:
    name = node.name.name
    if node.type.name not in TYPES:
        scope.unknown("LB127", f"no type `{node.type.name}`", node.type.name, node.type.span, TYPES, "types")
        return None
    default = None if node.default is None else constant(scope, node.default)
    checked = None if default is None else _typed(scope, node, default, "LB106")
    domain = Domain.of(scope, node)
    scope.params[name] = Declared(node, domain)
    if checked is not None and domain is not None:
        checked = domain.check(scope, node, checked, "LB116")
    if outside is None:
        if node.default is None:
            scope.error("LB117", f"`${name}` has no value", node.span, help=f"give it one: `--set {name}=VALUE`")
        return checked
    if outside.value is None:
        return None
    given = _typed(scope, node, outside.value, "LB118")
    return given if given is None or domain is None else domain.check(scope, node, given, "LB118")


def _read(scope: Scope, name: str, text: str, param: tree.Param) -> Constant | None:
    """`--set` text as a constant. Text for a `str` needs no quotes."""
    source = Source(f"{SET} {name}", text)
    span = Span(source, 0, len(text))
    if not _is_text(text):
        scope.error("LB118", f"the value for `${name}` is not UTF-8 text", span)
        return None
    if param.type.name == "str" and not (len(text) >= 2 and text[0] == text[-1] == '"'):
        return Constant(text, Unit.NONE, span, text)
    parsed = parse(Source(source.name, f"let $it = {text}"))
    statements = parsed.value.statements if parsed.value is not None else ()
    if parsed.diagnostics or len(statements) != 1 or not isinstance(statements[0], tree.Let):
        value = None
    else:
        value = constant(Scope(), statements[0].value)
    if value is None:
        scope.error(
            "LB118",
            f"`{text}` is no value for `${name}`",
            span,
            labels=(Label(param.span, f"a parameter of type {param.type.name}"),),
        )
        return None
    literal = statements[0].value if isinstance(statements[0], tree.Let) else None
    if isinstance(literal, tree.Number):
        return replace(value, span=span, text=text, numbers=(tree.Number(span, literal.value, literal.unit, text),))
    return Constant(value.value, value.unit, span, text)


def _is_text(text: str) -> bool:
    """False for the bytes of a shell's argument that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _typed(scope: Scope, node: tree.Param, value: Constant, code: str) -> Constant | None:
    """The value in the parameter's type and unit, or None with an error."""
    kind, units, whole = TYPES[node.type.name]
    if value.kind == kind and value.unit in units:
        if node.type.name == "ratio" and value.unit is Unit.NONE and abs(value.value) > 1:  # type: ignore[arg-type]
            said = f"`${node.name.name}` is a share, and {value.text} without `%` is {100 * value.value:g} %"
            scope.error("LB118" if code == "LB118" else "LB107", said, value.span, help=f"write `{value.value:.12g}%`")
            return None
        if not whole:
            return replace(value, unit=units[0])
        assert isinstance(value.value, int | float)
        if value.value == int(value.value):
            return replace(value, value=int(value.value), unit=units[0])
    share = kind == value.kind == "number" and value.unit is Unit.RATIO
    scope.error(
        code,
        f"`${node.name.name}` is of type {node.type.name}, and {value.shown} is not",
        value.span,
        help="the type of a share is `ratio`" if share else (),
        labels=() if value.span.source is node.span.source else (Label(node.span, "declared here"),),
    )
    return None


class Declared(NamedTuple):
    """A parameter above: its statement and its domain, None where it has none or a wrong one."""

    node: tree.Param
    domain: Domain | None


class Domain(NamedTuple):
    """The values a parameter may have: an interval with both ends, or a choice."""

    low: Constant | None
    high: Constant | None
    choice: tuple[Constant, ...]
    span: Span

    @classmethod
    def of(cls, scope: Scope, node: tree.Param) -> Domain | None:
        if node.domain is None:
            return None
        written = node.domain.options if isinstance(node.domain, tree.Choice) else (node.domain.low, node.domain.high)
        found = [constant(scope, item) for item in written]
        values = [None if value is None else _typed(scope, node, value, "LB106") for value in found]
        good = [value for value in values if value is not None]
        if len(good) < len(values):
            return None
        if isinstance(node.domain, tree.Choice):
            return cls(None, None, tuple(good), node.domain.span)
        if good[0].kind != "number":
            scope.error("LB106", "only numbers have a range", node.domain.span, help="list the values: `in {a, b}`")
            return None
        if good[0].value > good[1].value:  # type: ignore[operator]
            scope.error("LB205", "the domain runs backwards", node.domain.span)
            return None
        return cls(good[0], good[1], (), node.domain.span)

    def check(self, scope: Scope, node: tree.Param, value: Constant, code: str) -> Constant | None:
        """The value when it belongs to the domain; None with an error."""
        if self.low is not None and self.high is not None:
            good = self.low.value <= value.value <= self.high.value  # type: ignore[operator]
        else:
            good = any(value.value == option.value for option in self.choice)
        if good:
            bounds = self.choice or tuple(bound for bound in (self.low, self.high) if bound is not None)
            return replace(value, numbers=value.numbers + tuple(n for bound in bounds for n in bound.numbers))
        scope.error(
            code, f"`${node.name.name}` cannot be {value.shown}", value.span, labels=(Label(self.span, "its domain"),)
        )
        return None
