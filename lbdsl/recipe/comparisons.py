"""Which values may be compared, and with what; and which numbers without a unit say what they seem to say."""

from __future__ import annotations

from typing import NamedTuple

from lbdsl.core.diagnostic import Fix
from lbdsl.core.units import Unit
from lbdsl.recipe.schema import Arithmetic, CostOf, Expr, Fact, Items, Minus, Phase, PostScore, Score
from lbdsl.recipe.scope import Scope, Unresolved, each, rewrite
from lbdsl.recipe.types import has_cost, kind_name, kind_of, phase_of, unit_of, value_of
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

SMALLEST_BYTES = 1024
"""Fewer bytes than this are not a model's cache: a unit or a percent sign is missing."""

_OF_SHARES = "a share compares with `kv(...)`, `flops(...)` and `params`"


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


def refuse_unquoted(scope: Scope, node: tree.Expr) -> None:
    """Words without quotes where a text is compared: an error for each."""
    words = [
        item
        for item in (node.items if isinstance(node, tree.Items) else (node,))
        if isinstance(item, tree.Call) and item.args is None and item.name.name not in ("true", "false")
    ]
    for word in words:
        quoted = f'"{word.name.name}"'
        message = f"`{word.name.name}` is a name, and a text is wanted"
        hint = "texts stand in double quotes"
        scope.error("LB106", message, word.span, help=hint, fix=rewrite(word.span, quoted))
    if words:
        raise Unresolved


def _check(scope: Scope, op: tree.Operator, left: Operand, right: Operand) -> None:
    """Whether `left OP right` makes sense."""
    kind, place = kind_of(left.expr), right.written.span
    if op.text == "matches":
        if kind != "text":
            scope.fail("LB106", f"`matches` looks at text, not at {kind_name(left.expr)}", left.written.span)
    elif op.text in ("in", "not in"):
        if not isinstance(right.expr, Items):
            scope.fail("LB106", f"`{op.text}` wants a list", place, help='as in `in ["llama", "qwen3"]`')
        items = right.expr.items
        written = right.written.items if isinstance(right.written, tree.Items) else (right.written,) * len(items)
        for item in map(Operand, items, written):
            if kind_of(item.expr) != kind:
                scope.fail("LB106", f"{kind_name(left.expr)} is never {kind_name(item.expr)}", item.written.span)
            if kind == "number":
                _check_units(scope, op.text, left, item)
    elif kind_of(right.expr) != kind:
        scope.fail("LB106", f"`{op.text}` compares {kind_name(left.expr)} with {kind_name(right.expr)}", place)
    elif kind == "number":
        _check_units(scope, op.text, left, right)
    elif op.text not in ("==", "!=") or kind == "list":
        scope.fail("LB106", f"`{op.text}` does not compare {kind}", op.span, help="use `==`, `!=` or `in`")


def _check_units(scope: Scope, op: str, left: Operand, right: Operand) -> None:
    """Whether the units of two numbers go together."""
    units = (unit_of(left.expr), unit_of(right.expr))
    listed = op in ("in", "not in")
    if Unit.RATIO in units and units[0] is not units[1]:
        share, other = (left, right) if units[0] is Unit.RATIO else (right, left)
        if has_cost(other.expr) and phase_of(share.expr) is Phase.STATIC and not listed:
            return
        if unit_of(other.expr) is Unit.NONE and value_of(share.expr) is not None and _is_plain_fact(other.expr):
            message = f"`{other.text}` is a plain number, and `{share.text}` is a share"
            scope.fail("LB107", message, share.written.span, help=_OF_SHARES)
    if units[0] is units[1] or Unit.NONE in units:
        _check_unitless(scope, left, right)
        _check_unitless(scope, right, left)
        return
    help: str | tuple[str, ...] = ()
    if Unit.RATIO in units:
        help = _OF_SHARES
        if Unit.NATS in units:
            help = "`nll < 0.1` is about 10.5 % more perplexity; after healing `assert ppl_increase < 10%`"
    whole = right.written.span if listed else left.written.span.to(right.written.span)
    scope.fail("LB107", f"`{op}` compares {units[0].value} with {units[1].value}", whole, help=help)


_COUNTED = {Unit.BYTES: ("bytes", "2GiB"), Unit.FLOPS: ("FLOPs", "100M"), Unit.PARAMS: ("parameters", "100M")}
"""Units of which there are only whole numbers: their name, and a usual amount."""


def _check_unitless(scope: Scope, number: Operand, other: Operand) -> None:
    """Whether a constant without a unit may be compared with `other`.

    Losses and `influence` are plain numbers anyhow. Of a model, a metric in shares is one, as `ppl_increase` is: 5 would be
    500 %. Bytes, FLOPs and parameters are counted in whole ones.
    """
    value, quantity = value_of(number.expr), other.expr
    if unit_of(number.expr) is not Unit.NONE or value is None or value_of(quantity) is not None:
        return
    unit, cost = unit_of(quantity), has_cost(quantity)
    said = f"`{number.text}`" + ("" if isinstance(number.written, tree.Number) else f" ({value:.12g})")
    if unit is Unit.RATIO and _of_model(_positive(quantity)) and abs(value) > 1:
        message = f"`{other.text}` is a share, and {said} without `%` is {100 * value:g} %"
        _refuse(scope, number, message, value / 100, "write")
    if unit in _COUNTED and _counted(quantity):
        few = unit is Unit.BYTES and cost and 0 < abs(value) < SMALLEST_BYTES
        if few or value != int(value):
            name, amount = _COUNTED[unit]
            message = f"{said} is that many {name}, and a unit is missing" if few else f"{said} is no number of {name}"
            example = f"as in `50%` of the base's, or `{amount}`" if cost else f"as in `{amount}`"
            _refuse(scope, number, message, value if 0 < value <= 1 and cost else None, example)


def _refuse(scope: Scope, number: Operand, message: str, share: float | None, words: str) -> None:
    """Fail; `share` is what was meant as a percentage, to be written in place of a literal number."""
    fix: Fix | None = None
    if share is not None:
        text = f"{100 * share:.12g}%"
        # `ppl_increase < 1.5` may mean 1.5 % or half as much again.
        if isinstance(number.written, tree.Number) and not 1 < number.written.value < 2:
            fix = rewrite(number.written.span, text)
        words = f"write `{text}`" if words == "write" else f"write `{text}`, a share of the base's"
    scope.fail("LB107", message, number.written.span, help=(words,), fix=fix)


def _of_model(expr: Expr) -> bool:
    """Whether it is a metric of the changed or the finished model."""
    return isinstance(expr, PostScore) or (isinstance(expr, Score) and expr.joint)


def _positive(expr: Expr) -> Expr:
    """The expression without the signs before it."""
    while isinstance(expr, Minus):
        expr = expr.operand
    return expr


def _counted(expr: Expr) -> bool:
    """A cost or a fact, or sums of them; after a multiplication or division any number may be meant."""
    expr = _positive(expr)
    if isinstance(expr, Arithmetic):
        return all(op in "+-" for op in expr.ops) and any(_counted(part) for part in expr.operands)
    return isinstance(expr, CostOf | Fact)


def _is_plain_fact(expr: Expr) -> bool:
    """A fact of the model, or sums and multiples of facts; a quotient may well be a share."""
    expr = _positive(expr)
    if isinstance(expr, Arithmetic):
        return "/" not in expr.ops and any(_is_plain_fact(part) for part in expr.operands)
    return isinstance(expr, Fact)
