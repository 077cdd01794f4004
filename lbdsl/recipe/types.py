"""What is known of a resolved expression: its kind, unit and phase, and the value of a constant. Checks of comparisons."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from lbdsl.core.arithmetic import combined, join_units
from lbdsl.core.diagnostic import rewrite
from lbdsl.core.units import Unit
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import Arithmetic, Expr, Items, Minus, Number, walk
from lbdsl.metrics import TaskMetric, metric_of
from lbdsl.recipe.schema import FACTS, CostOf, Fact, Phase, PostScore, Score
from lbdsl.recipe.scope import Scope, Unresolved, each

Clause = Literal["where", "requires", "until", "while", "subject to", "assert"]
"""Where an expression is used; all but `where` are about the whole model."""


def _type_of(expr: Expr) -> tuple[str, Unit]:
    """The kind of a value, and the unit of a number."""
    match expr:
        case Number() | CostOf():
            return "number", expr.unit
        case Score() | PostScore():
            return "number", metric_of(expr.metric).unit
        case Fact():
            return FACTS[expr.name]
        case Minus():
            return "number", unit_of(expr.operand)
        case Arithmetic():
            unit = unit_of(expr.operands[0])
            for op, part in zip(expr.ops, expr.operands[1:], strict=True):
                unit = join_units(op, unit, unit_of(part)) or unit
            return "number", unit
        case tree.String():
            return "text", Unit.NONE
        case Items():
            return "list", Unit.NONE
        case tree.Pattern():
            return "pattern", Unit.NONE
        case _:
            return "boolean", Unit.NONE


def kind_of(expr: Expr) -> str:
    """`number`, `text`, `boolean`, `list` or `pattern`."""
    return _type_of(expr)[0]


def unit_of(expr: Expr) -> Unit:
    """The unit of a number; `Unit.NONE` for anything else."""
    return _type_of(expr)[1]


def kind_name(expr: Expr) -> str:
    """`a number`, `text`."""
    kind = kind_of(expr)
    return kind if kind == "text" else f"a {kind}"


def value_of(expr: Expr) -> int | float | None:
    """The value of a numeric constant expression; None for any other expression."""
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
    return max((phases.get(type(part), Phase.STATIC) for part in walk(expr)), key=list(Phase).index)


def has_cost(expr: Expr) -> bool:
    """Whether it contains a cost of the changed model, which can be compared with a share."""
    return any(isinstance(part, CostOf) for part in walk(expr))


# Comparisons ---------------------------------------------------------------------------------------------------------

SMALLEST_BYTES = 1024
"""No model's cache has fewer bytes: a unit or a percent sign is missing."""

SLOWEST = 10
"""No step takes so many seconds: milliseconds or a percentage are meant."""

_OF_SHARES = "a share compares with `kv(...)`, `flops(...)`, `params`, `weights`, and what is predicted"


class Operand(NamedTuple):
    """A side of a comparison, and how it is written."""

    expr: Expr
    written: tree.Expr

    @property
    def text(self) -> str:
        return one_line(self.written.span.text)


def check_comparison(scope: Scope, node: tree.Compare, operands: tuple[Expr, ...]) -> None:
    """Check each comparison of a chain; `operands` are resolved."""
    sides = [Operand(*pair) for pair in zip(operands, node.operands, strict=True)]
    each(lambda pair: _check(scope, *pair), zip(node.ops, sides, sides[1:], strict=False))


_FILE_NAME = re.compile(r"(?!model\.)[A-Za-z_][\w./-]*")


def refuse_unquoted(scope: Scope, node: tree.Expr, *, words: bool = False) -> None:
    """Report each unquoted name or path (`my-text.txt`) where text is expected; with `words`, a name needs no quotes."""
    unquoted = [
        item.span
        for item in (node.items if isinstance(node, tree.Items) else (node,))
        if (isinstance(item, tree.Call) and item.args is None and not words and item.name.name not in ("true", "false"))
        or (isinstance(item, tree.Dotted | tree.Arithmetic) and _FILE_NAME.fullmatch(item.span.text))
    ]
    for span in unquoted:
        message = f"`{span.text}` is a name; expected a string"
        scope.error("LB106", message, span, help="put strings in double quotes", write=f'"{span.text}"')
    if unquoted:
        raise Unresolved


def _check(scope: Scope, op: tree.Operator, left: Operand, right: Operand) -> None:
    """Check the types of `left OP right`."""
    kind, place = kind_of(left.expr), right.written.span
    if op.text == "matches":
        if kind != "text":
            scope.fail("LB106", f"`matches` looks at text, not at {kind_name(left.expr)}", left.written.span)
    elif op.text in ("in", "not in"):
        if not isinstance(right.expr, Items):
            scope.fail("LB106", f"`{op.text}` needs a list", place, help='as in `in ["llama", "qwen3"]`')
        items = right.expr.items
        written = right.written.items if isinstance(right.written, tree.Items) else (right.written,) * len(items)
        for item in map(Operand, items, written):
            if kind_of(item.expr) != kind:
                scope.fail("LB106", f"{kind_name(left.expr)} is never equal to {kind_name(item.expr)}", item.written.span)
            if kind == "number":
                _check_units(scope, op.text, left, item)
    elif kind_of(right.expr) != kind:
        scope.fail("LB106", f"`{op.text}` compares {kind_name(left.expr)} with {kind_name(right.expr)}", place)
    elif kind == "number":
        _check_units(scope, op.text, left, right)
    elif op.text not in ("==", "!=") or kind == "list":
        scope.fail("LB106", f"`{op.text}` cannot compare {kind}", op.span, help="use `==`, `!=` or `in`")


def _check_units(scope: Scope, op: str, left: Operand, right: Operand) -> None:
    """Check that the units of two numbers are compatible."""
    units = (unit_of(left.expr), unit_of(right.expr))
    listed = op in ("in", "not in")
    if Unit.RATIO in units and units[0] is not units[1]:
        share, other = (left, right) if units[0] is Unit.RATIO else (right, left)
        if has_cost(other.expr) and phase_of(share.expr) is Phase.STATIC and not listed:
            return
        # A quotient of facts can be a share.
        if unit_of(other.expr) is Unit.NONE and value_of(share.expr) is not None and _sums_up(other.expr, Fact, "+-*"):
            message = f"`{other.text}` is a plain number, and `{share.text}` is a share"
            scope.fail("LB107", message, share.written.span, help=_OF_SHARES)
    if units[0] is units[1] or Unit.NONE in units:
        _check_unitless(scope, left, right)
        _check_unitless(scope, right, left)
        return
    more = without_bytes(right.expr) or without_bytes(left.expr)
    if Unit.RATIO in units:
        more = {"help": _OF_SHARES}
        if Unit.NATS in units:
            more = {"help": "`nll < 0.1` is about 10.5 % more perplexity; after healing `assert ppl_increase < 10%`"}
    whole = right.written.span if listed else left.written.span.to(right.written.span)
    scope.fail("LB107", f"`{op}` compares {units[0].value} with {units[1].value}", whole, **more)


def without_bytes(number: Expr) -> dict[str, Any]:
    """The help and the fix for `4KiB` where bytes are not counted; `7B` may be meant as 7 billion."""
    if not isinstance(number, Number) or number.unit is not Unit.BYTES or not number.text[:1].isdigit():
        return {}
    right = number.text.removesuffix("B")
    if right[-1:].isdigit():
        return {"help": f"`B` is bytes: write `{right}`, or `{right}G` for billions"}
    return {"help": f"`B` is bytes: write `{right}`", "fix": rewrite(number.span, right)}


_COUNTED = {Unit.BYTES: ("bytes", "2GiB"), Unit.FLOPS: ("FLOPs", "100M"), Unit.PARAMS: ("parameters", "100M")}
"""Units that are always whole numbers: their name, and a typical amount."""


def _check_unitless(scope: Scope, number: Operand, other: Operand) -> None:
    """Check that a constant without a unit may be compared with `other`. Losses and `influence` are plain numbers; for a
    ratio of the whole model, such as `ppl_increase`, 5 would be 500 %; bytes, FLOPs and parameters are whole numbers."""
    value, quantity = value_of(number.expr), other.expr
    if unit_of(number.expr) is not Unit.NONE or value is None or value_of(quantity) is not None:
        return
    unit, cost, lone = unit_of(quantity), has_cost(quantity), _positive(quantity)
    # Of layers `influence` may be above 1; right answers are not.
    of_task = isinstance(lone, Score) and issubclass(metric_of(lone.metric), TaskMetric)
    of_model = isinstance(lone, PostScore) or of_task or (isinstance(lone, Score) and lone.joint)
    said = f"`{number.text}`" + ("" if isinstance(number.written, tree.Number) else f" ({value:.12g})")
    if unit is Unit.RATIO and of_model and abs(value) > 1:
        message = f"`{other.text}` is a share, and {said} without `%` is {100 * value:g} %"
        _refuse(scope, number, message, value / 100, "write")
    if unit is Unit.SECONDS and abs(value) >= SLOWEST:
        message = f"{said} is in seconds between two tokens"
        _refuse(scope, number, message, None, "as in `0.02` for 20 ms, or `90%` of the base model's")
    # After a multiplication or division any number may be correct.
    if unit in _COUNTED and _sums_up(quantity, (CostOf, Fact), "+-"):
        few = unit is Unit.BYTES and cost and 0 < abs(value) < SMALLEST_BYTES
        if few or value != int(value):
            name, amount = _COUNTED[unit]
            message = f"{said} is in {name}: a unit is missing"
            example = f"as in `50%` of the base model's, or `{amount}`" if cost else f"as in `{amount}`"
            _refuse(scope, number, message, value if 0 < value < 1 and cost else None, example)


def _refuse(scope: Scope, number: Operand, message: str, share: float | None, words: str) -> None:
    """Fail; `share` is the intended ratio, which a fix may write as a percentage in place of a literal number."""
    text = None
    if share is not None:
        text = f"{100 * share:.12g}%"
        words = f"write `{text}`" if words == "write" else f"write `{text}`, a share of the base model's"
    # `ppl_increase < 1.5` may mean 1.5 % or 1.5 times as much, and `< 2` twice as much.
    sure = isinstance(number.written, tree.Number) and not 1 < number.written.value <= 2
    scope.fail("LB107", message, number.written.span, help=words, write=text if sure else None)


def _positive(expr: Expr) -> Expr:
    """The expression without leading minus signs."""
    while isinstance(expr, Minus):
        expr = expr.operand
    return expr


def _sums_up(expr: Expr, kinds: type[Expr] | tuple[type[Expr], ...], ops: str) -> bool:
    """Whether it is of one of these kinds, or contains one and uses only these operations."""
    expr = _positive(expr)
    if isinstance(expr, Arithmetic):
        return set(expr.ops) <= set(ops) and any(_sums_up(part, kinds, ops) for part in expr.operands)
    return isinstance(expr, kinds)


_BOUNDS = {Unit.BYTES: "<= 4GiB", Unit.FLOPS: "<= 1G", Unit.PARAMS: "<= 1G", Unit.TOKENS: ">= 2Ki"}


def compared(expr: Expr, node: tree.Expr) -> str | tuple[str, ...]:
    """Help on how to turn a value into a condition, with a typical bound."""
    text = one_line(node.span.text)
    if kind_of(expr) == "text" and isinstance(expr, Fact):
        bound = '== "llama"'
    elif kind_of(expr) != "number" or value_of(expr) is not None:
        return ()
    elif has_cost(expr):
        bound = ">= 150%" if unit_of(expr) is Unit.RATE else "<= 50%"
    elif isinstance(expr, Score | PostScore):
        bound = metric_of(expr.metric).bound
    else:
        bound = _BOUNDS.get(unit_of(expr), ">= 24") if phase_of(expr) is Phase.STATIC else "< 0.1"
    return f"compare it, as in `{text if len(text) <= 40 else 'VALUE'} {bound}`"
