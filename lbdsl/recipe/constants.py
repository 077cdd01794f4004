"""Constant expressions: what `param`, `let`, settings, arguments and amounts may hold."""

from __future__ import annotations

from typing import Any

from lbdsl.core.arithmetic import combined, finite, join_units
from lbdsl.core.diagnostic import Label
from lbdsl.core.units import Unit
from lbdsl.recipe.scope import Constant, Scope
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

SET = "--set"
"""What the source of a value from outside is called."""

_WHAT = "a number, text, `true`, `false`, a `$variable` or arithmetic over them"


def constant(scope: Scope, node: tree.Expr, words: bool = False) -> Constant | None:
    """The value of an expression, or None with an error. With `words`, a bare name is the text of that name."""
    match node:
        case tree.Number():
            if not finite(node.value):
                scope.error("LB121", f"`{node.text}` is too large", node.span)
                return None
            return Constant(node.value, node.unit, node.span, node.text, (node,))
        case tree.String():
            return Constant(node.value, Unit.NONE, node.span, one_line(node.span.text))
        case tree.Variable():
            return variable(scope, node)
        case tree.Call(name=name, args=None) if name.name in ("true", "false"):
            return Constant(name.name == "true", Unit.NONE, node.span, name.name)
        case tree.Call(name=name, args=None) if words:
            return Constant(name.name, Unit.NONE, node.span, name.name)
        case tree.Items():
            items = [constant(scope, item, words) for item in node.items]
            if any(item is None for item in items):
                return None
            good = tuple(item for item in items if item is not None)
            return Constant(good, Unit.NONE, node.span, one_line(node.span.text))
        case tree.Minus():
            inner = _number(scope, node.operand)
            return None if inner is None else Constant(-inner.value, inner.unit, node.span, one_line(node.span.text))
        case tree.Arithmetic():
            return _arithmetic(scope, node)
        case _:
            scope.error("LB120", "a constant is wanted here", node.span, help=f"write {_WHAT}")
            return None


def variable(scope: Scope, node: tree.Variable) -> Constant | None:
    """The value of `$name`, standing where it is used."""
    scope.use("$", node.name)
    if node.name not in scope.variables:
        scope.unknown(
            "LB110", f"no variable `${node.name}`", node.name, node.span, scope.variables, "variables defined above", "$"
        )
        return None
    if node.name in scope.expressions:
        scope.error(
            "LB120",
            f"`${node.name}` is not a constant, it depends on the model",
            node.span,
            labels=(Label(scope.expressions[node.name].node.span, "stands for this"),),
            help=f"here stands {_WHAT}",
        )
        return None
    value = scope.variables[node.name]
    return None if value is None else Constant(value.value, value.unit, node.span, f"${node.name}", value.numbers)


def _number(scope: Scope, node: tree.Expr) -> Any:
    value = constant(scope, node)
    if value is not None and value.kind != "number":
        scope.error("LB106", f"a number is wanted, not {value.shown}", node.span)
        return None
    return value


def _arithmetic(scope: Scope, node: tree.Arithmetic) -> Constant | None:
    found = [_number(scope, operand) for operand in node.operands]
    if any(value is None for value in found):
        return None
    total, unit = found[0].value, found[0].unit
    for op, operand in zip(node.ops, found[1:], strict=True):
        joined = join_units(op, unit, operand.unit)
        if joined is None:
            scope.error(
                "LB107",
                f"`{op}` between {unit.value} and {operand.unit.value}",
                node.span,
                help="both sides must be of one unit, or one a plain number",
            )
            return None
        unit = joined
        value = combined(op, total, operand.value)
        if value is None or not finite(value):
            scope.error(
                "LB121",
                "division by zero" if op == "/" and operand.value == 0 else "result is too large",
                node.span,
                help="a constant is a finite number of at most 18 digits",
            )
            return None
        total = value
    return Constant(total, unit, node.span, one_line(node.span.text))


def whole(scope: Scope, value: Constant, units: tuple[Unit, ...], what: str) -> int | None:
    """The int of a constant in one of the units (or without one), or None with an error."""
    if value.kind != "number":
        scope.error("LB106", f"{what} is a number, not {value.shown}", value.span)
        return None
    if value.unit not in (Unit.NONE, *units):
        wanted = units[0].value if units else "a plain number"
        scope.error(
            "LB107",
            f"{what} is counted in {wanted}, not in {value.unit.value}"
            if units
            else f"{what} is a plain number, not {value.shown}",
            value.span,
        )
        return None
    assert isinstance(value.value, int | float)
    if value.value != int(value.value):
        scope.error("LB106", f"{what} is a whole number, not {value.shown}", value.span)
        return None
    return int(value.value)


def warn_decimal(scope: Scope, value: Constant) -> None:
    """`4k` where tokens of a window or a context are meant: 4000, and mostly 4096 was wanted. Said once a literal."""
    for literal in value.numbers:
        text = literal.text.removesuffix("tokens").rstrip()
        if not text.endswith("k") or any(d.code == "LB119" and d.span == literal.span for d in scope.diagnostics):
            continue
        binary = literal.text.replace("k", "Ki", 1)
        meant = f" ({int(text[:-1]) * 1024})" if text[:-1].isdigit() else ""
        scope.warning(
            "LB119",
            f"`{literal.text}` is {literal.value} tokens",
            literal.span,
            help=f"did you mean `{binary}`{meant}?",
        )
