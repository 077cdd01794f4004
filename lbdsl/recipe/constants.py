"""Constant expressions: what `param`, `let`, settings, arguments and amounts may hold. Each becomes a literal."""

from __future__ import annotations

from collections.abc import Sequence

from lbdsl.core.arithmetic import combined, finite, join_units
from lbdsl.core.diagnostic import Label
from lbdsl.core.span import Span
from lbdsl.core.units import Unit
from lbdsl.recipe.schema import Boolean, Expr, Items, Number, String
from lbdsl.recipe.scope import Constant, Scope, Unresolved, each, rebuilt
from lbdsl.recipe.types import unit_of, value_of
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

SET = "--set"
"""What the source of a value from outside is called."""

_WHAT = "a number, text, `true`, `false`, a `$variable` or arithmetic over them"


def constant(scope: Scope, node: tree.Expr, words: bool = False) -> Constant:
    """The value of an expression. With `words`, a bare name is the text of that name."""
    match node:
        case tree.Number():
            if not finite(node.value):
                scope.fail("LB121", f"`{node.text}` is too large", node.span)
            return node
        case String() | Boolean():
            return node
        case tree.Variable():
            return variable(scope, node)
        case tree.Call(name=name, args=None) if name.name in ("true", "false"):
            return Boolean(node.span, name.name == "true")
        case tree.Call(name=name, args=None) if words:
            return String(node.span, name.name)
        case tree.Items():
            return rebuilt(node, items=lambda item: constant(scope, item, words))
        case tree.Minus():
            inner = _number(scope, node.operand)
            return Number(node.span, -inner.value, inner.unit, one_line(node.span.text))
        case tree.Arithmetic():
            operands = each(lambda operand: _number(scope, operand), node.operands)
            value, unit = calculated(scope, node, operands)
            assert value is not None, "the operands are numbers"
            return Number(node.span, value, unit, one_line(node.span.text))
        case _:
            scope.fail("LB120", "a constant is wanted here", node.span, help=f"write {_WHAT}")


def variable(scope: Scope, node: tree.Variable) -> Constant:
    """The value of `$name`, standing where it is used."""
    scope.used.add(f"${node.name}")
    if node.name not in scope.variables:
        message = f"no variable `${node.name}`"
        scope.unknown("LB110", message, node.name, node.span, scope.variables, "variables defined above", "$")
    if node.name in scope.expressions:
        message = f"`${node.name}` is not a constant, it depends on the model"
        label = Label(scope.expressions[node.name].node.span, "stands for this")
        scope.fail("LB120", message, node.span, labels=(label,), help=f"here stands {_WHAT}")
    value = scope.variables[node.name]
    if value is None:
        raise Unresolved
    return placed(value, node.span, f"${node.name}")


def placed(value: Constant, span: Span, text: str) -> Constant:
    """The same value at another place, where `text` is written."""
    match value:
        case Number():
            return Number(span, value.value, value.unit, text)
        case Items():
            return rebuilt(Items(span, value.items), items=lambda item: placed(item, span, text))
        case String():
            return String(span, value.value)
        case Boolean():
            return Boolean(span, value.value)


def calculated(
    scope: Scope, node: tree.Arithmetic, operands: Sequence[Expr], among: bool = False
) -> tuple[int | float | None, Unit]:
    """The value of a chain of operations, None where it depends on the model, and its unit. `among`: it stands in an
    expression, whose errors are at the operand."""
    value, unit = value_of(operands[0]), unit_of(operands[0])
    for op, operand, written in zip(node.ops, operands[1:], node.operands[1:], strict=True):
        right = value_of(operand)
        if among and op == "/" and right == 0:
            scope.fail("LB121", "division by zero", node.span, labels=(Label(written.span, "this is 0"),))
        joined = join_units(op, unit, unit_of(operand))
        if joined is None:
            message = f"`{op}` between {unit.value} and {unit_of(operand).value}"
            hint = "both sides must be of one unit, or one a plain number"
            scope.fail("LB107", message, written.span if among else node.span, help=hint)
        unit = joined
        if value is None or right is None:
            value = None
            continue
        value = combined(op, value, right)
        if value is None or not finite(value):
            message = "division by zero" if op == "/" and right == 0 else "result is too large"
            scope.fail("LB121", message, node.span, help="a constant is a finite number of at most 18 digits")
    return value, unit


def whole(scope: Scope, value: Constant, units: tuple[Unit, ...], what: str) -> int:
    """The int of a constant in one of the units, or without one."""
    if not isinstance(value, Number):
        scope.fail("LB106", f"{what} is a number, not {described(value)}", value.span)
    if value.unit not in (Unit.NONE, *units):
        wanted = f"counted in {units[0].value}, not in {value.unit.value}" if units else ""
        scope.fail("LB107", f"{what} is {wanted or f'a plain number, not {described(value)}'}", value.span)
    if value.value != int(value.value):
        scope.fail("LB106", f"{what} is a whole number, not {described(value)}", value.span)
    return int(value.value)


def described(value: Constant) -> str:
    """How to speak of it: `512 tokens`, `the text "512"`."""
    match value:
        case Number():
            plain = value.unit is Unit.NONE or value.unit.value in value.text or value.text.endswith("%")
            said = f"{value.text} ({value.value:.12g})" if value.text.startswith("$") else f"{value.text or value.value}"
            return said + ("" if plain else f" {value.unit.value}")
        case String():
            return f'the text "{value.value}"'
        case Boolean():
            return str(value.value).lower()
        case _:
            return "a list"


def literals(scope: Scope, node: tree.Expr | None) -> tuple[Number, ...]:
    """The numbers as written that a constant is one of, wherever they stand: its own or its variable's."""
    if isinstance(node, tree.Variable):
        return scope.literals.get(node.name, ())
    return (node,) if isinstance(node, tree.Number) else ()


def warn_decimal(scope: Scope, node: tree.Expr) -> None:
    """`4k` where tokens of a window or a context are meant: 4000, and mostly 4096 was wanted. Said once a literal."""
    for literal in literals(scope, node):
        text = literal.text.removesuffix("tokens").rstrip()
        if not text.endswith("k") or any(d.code == "LB119" and d.span == literal.span for d in scope.diagnostics):
            continue
        binary = literal.text.replace("k", "Ki", 1)
        meant = f" ({int(text[:-1]) * 1024})" if text[:-1].isdigit() else ""
        message = f"`{literal.text}` is {literal.value} tokens"
        scope.warning("LB119", message, literal.span, help=f"did you mean `{binary}`{meant}?")


def _number(scope: Scope, node: tree.Expr) -> Number:
    value = constant(scope, node)
    if not isinstance(value, Number):
        scope.fail("LB106", f"a number is wanted, not {described(value)}", node.span)
    return value
