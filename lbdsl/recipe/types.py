"""What is known of a resolved expression: its kind and unit, when its value is known, and that value where the text alone
says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from lbdsl.core.arithmetic import combined, join_units
from lbdsl.core.units import Unit
from lbdsl.layer.cost import STATIC_VALUES
from lbdsl.metrics import metrics
from lbdsl.recipe.schema import (
    FACTS,
    Arithmetic,
    CostOf,
    Expr,
    Fact,
    Items,
    Minus,
    Node,
    Number,
    Pattern,
    Phase,
    PostScore,
    Score,
    String,
)
from lbdsl.syntax import tree

Place = Literal["where", "requires", "until", "assert"]
"""Where an expression stands; all but `where` ask about the whole model."""

_KINDS: Mapping[type, str] = {
    **dict.fromkeys((Number, Score, PostScore, CostOf, Arithmetic, Minus), "number"),
    String: "text",
    Items: "list",
    Pattern: "pattern",
}
"""The kinds of values; those not named are true or false."""

_PHASES = (Phase.STATIC, Phase.MEASURED, Phase.POST)


def walk(node: Node) -> Iterator[Node]:
    """`node` and every node in it, from left to right; but the arguments of a call are none. Nesting is limited by the
    parser."""
    yield node
    for value in vars(node).values() if not isinstance(node, tree.Call) else ():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Node):
                yield from walk(part)


def kind_of(expr: Expr) -> str:
    """`number`, `text`, `boolean`, `list` or `pattern`."""
    return FACTS[expr.name][0] if isinstance(expr, Fact) else _KINDS.get(type(expr), "boolean")


def kind_name(expr: Expr) -> str:
    """`a number`, `text`."""
    kind = kind_of(expr)
    return kind if kind == "text" else f"a {kind}"


def unit_of(expr: Expr) -> Unit:
    """What a number counts; of anything else no unit."""
    match expr:
        case Number():
            return expr.unit
        case Score():
            return metrics()[expr.metric].unit
        case PostScore():
            return metrics()[expr.name].unit
        case CostOf():
            return STATIC_VALUES[expr.name].unit
        case Fact():
            return FACTS[expr.name][1]
        case Minus():
            return unit_of(expr.operand)
        case Arithmetic():
            unit = unit_of(expr.operands[0])
            for op, part in zip(expr.ops, expr.operands[1:], strict=True):
                unit = join_units(op, unit, unit_of(part)) or unit
            return unit
        case _:
            return Unit.NONE


def value_of(expr: Expr) -> int | float | None:
    """The number that an expression is, where that depends on no model."""
    match expr:
        case Number():
            return expr.value
        case Minus():
            inner = value_of(expr.operand)
            return None if inner is None else -inner
        case Arithmetic():
            total, *others = (value_of(part) for part in expr.operands)
            for op, value in zip(expr.ops, others, strict=True):
                total = None if total is None or value is None else combined(op, total, value)
            return total
        case _:
            return None


def phase_of(expr: Expr) -> Phase:
    """When all values of an expression are known."""
    phases = {Score: Phase.MEASURED, PostScore: Phase.POST}
    return max((phases.get(type(part), Phase.STATIC) for part in walk(expr)), key=_PHASES.index)


def has_cost(expr: Expr) -> bool:
    """Whether it is about a cost of the changed model, which a share can be compared with."""
    return any(isinstance(part, CostOf) for part in walk(expr))
