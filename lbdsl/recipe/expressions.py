"""Expressions: tree to schema, with types, units, phases and scopes checked.

In a rule (`where`, `by`) names are scores of one layer; in `assert`, `requires` and `until` they are values of the
whole model.
"""

from __future__ import annotations

from lbdsl.core.arithmetic import combined, finite, join_units
from lbdsl.core.diagnostic import Label
from lbdsl.core.units import Unit
from lbdsl.metrics import metrics
from lbdsl.recipe.comparisons import compare
from lbdsl.recipe.constants import constant
from lbdsl.recipe.lets import use_expression
from lbdsl.recipe.schema import (
    Arithmetic,
    Boolean,
    Fact,
    Items,
    Logic,
    Negate,
    Not,
    Number,
    Phase,
    PostScore,
    Score,
    Text,
)
from lbdsl.recipe.scope import Constant, Scope, at
from lbdsl.recipe.typed import Place, Typed, kind_name, latest
from lbdsl.recipe.values import resolve_fact, resolve_value
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line


def resolve_condition(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    """An expression that is true or false, or None with errors."""
    typed = resolve_expr(scope, node, place)
    if typed is not None and typed.kind != "boolean":
        scope.error(
            "LB123",
            f"`{place}` wants a condition, not {kind_name(typed.kind)}",
            node.span,
            help=_compare_it(typed, _short(node.span.text)),
        )
        return None
    return typed


def resolve_expr(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    """Any expression; None with errors."""
    match node:
        case tree.Variable() if node.name in scope.expressions:
            return use_expression(scope, node, place)
        case tree.Number() | tree.String() | tree.Variable():
            value = constant(scope, node)
            return None if value is None else _constant(value, node)
        case tree.Pattern():
            scope.error("LB122", "a pattern stands only after `matches`", node.span)
            return None
        case tree.Dotted():
            return resolve_fact(scope, node)
        case tree.Call():
            return resolve_value(scope, node, place)
        case tree.Items():
            items = [resolve_expr(scope, item, place) for item in node.items]
            good = [item for item in items if item is not None]
            if len(good) < len(items):
                return None
            return Typed(
                Items.model_construct(items=tuple(item.expr for item in good), at=at(node)),
                "list",
                phase=latest(good),
                cost=any(item.cost for item in good),
                items=tuple(good),
            )
        case tree.Compare():
            return compare(scope, node, place, resolve_expr)
        case tree.Logic():
            parts = _conditions(scope, node.operands, place, node.op)
            return (
                None
                if parts is None
                else Typed(
                    Logic.model_construct(op=node.op, operands=tuple(part.expr for part in parts), at=at(node)),
                    "boolean",
                    phase=latest(parts),
                )
            )
        case tree.Not():
            parts = _conditions(scope, (node.operand,), place, "not")
            return (
                None
                if parts is None
                else Typed(Not.model_construct(operand=parts[0].expr, at=at(node)), "boolean", phase=parts[0].phase)
            )
        case tree.Minus():
            inner = _number(scope, node.operand, place)
            return (
                None
                if inner is None
                else Typed(
                    Negate.model_construct(operand=inner.expr, at=at(node)),
                    "number",
                    inner.unit,
                    inner.phase,
                    inner.cost,
                    None if inner.value is None else -inner.value,
                )
            )
        case tree.Arithmetic():
            return _arithmetic(scope, node, place)


def _constant(value: Constant, node: tree.Node) -> Typed:
    if isinstance(value.value, tuple):
        items = tuple(_constant(item, node) for item in value.value)
        exprs = tuple(item.expr for item in items)
        return Typed(Items.model_construct(items=exprs, at=at(node)), "list", items=items)
    if isinstance(value.value, bool):
        return Typed(Boolean.model_construct(value=value.value, at=at(node)), "boolean")
    if isinstance(value.value, str):
        return Typed(Text.model_construct(value=value.value, at=at(node)), "text")
    number = Number.model_construct(value=value.value, unit=value.unit, at=at(node))
    return Typed(number, "number", value.unit, value=value.value)


def _number(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    typed = resolve_expr(scope, node, place)
    if typed is not None and typed.kind != "number":
        scope.error("LB106", f"a number is wanted, not {kind_name(typed.kind)}", node.span)
        return None
    return typed


def _conditions(scope: Scope, nodes: tuple[tree.Expr, ...], place: Place, op: str) -> list[Typed] | None:
    parts = []
    for node in nodes:
        typed = resolve_expr(scope, node, place)
        if typed is not None and typed.kind != "boolean":
            scope.error(
                "LB123",
                f"`{op}` joins conditions, and this is {kind_name(typed.kind)}",
                node.span,
                help="compare it with something",
            )
        elif typed is not None:
            parts.append(typed)
    return parts if len(parts) == len(nodes) else None


def _arithmetic(scope: Scope, node: tree.Arithmetic, place: Place) -> Typed | None:
    found = [_number(scope, operand, place) for operand in node.operands]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    unit, value = parts[0].unit, parts[0].value
    for op, part, operand in zip(node.ops, parts[1:], node.operands[1:], strict=True):
        if op == "/" and part.value == 0:
            scope.error("LB121", "division by zero", node.span, labels=(Label(operand.span, "this is 0"),))
            return None
        joined = join_units(op, unit, part.unit)
        if joined is None:
            scope.error(
                "LB107",
                f"`{op}` between {unit.value} and {part.unit.value}",
                operand.span,
                help="both sides must be of one unit, or one a plain number",
            )
            return None
        unit = joined
        value = None if value is None or part.value is None else combined(op, value, part.value)
        if value is not None and not finite(value):
            scope.error(
                "LB121", "result is too large", node.span, help="a constant is a finite number of at most 18 digits"
            )
            return None
    expr = Arithmetic.model_construct(operands=tuple(part.expr for part in parts), ops=node.ops, at=at(node))
    return Typed(expr, "number", unit, latest(parts), any(part.cost for part in parts), value)


_BOUNDS = {Unit.BYTES: "<= 4GiB", Unit.FLOPS: "<= 1G", Unit.PARAMS: "<= 1G", Unit.TOKENS: ">= 2Ki"}


def _compare_it(typed: Typed, text: str) -> str | tuple[str, ...]:
    """How a value is made a condition, with a bound that fits it."""
    if typed.value is not None or typed.kind not in ("number", "text"):
        return ()
    if typed.kind == "text":
        return f'compare it, as in `{text} == "llama"`' if isinstance(typed.expr, Fact) else ()
    if typed.cost:
        bound = "<= 50%"
    elif isinstance(typed.expr, Score | PostScore):
        bound = metrics()[typed.expr.metric if isinstance(typed.expr, Score) else typed.expr.name].bound
    elif typed.phase is Phase.POST and typed.unit is Unit.RATIO:
        bound = "< 5%"
    elif typed.phase is Phase.STATIC:
        bound = _BOUNDS.get(typed.unit, ">= 24")
    else:
        bound = "< 0.1"
    return f"compare it, as in `{text} {bound}`"


def _short(text: str) -> str:
    flat = one_line(text)
    return flat if len(flat) <= 40 else "VALUE"
