"""Bare numbers beside values that have a unit: which of them say what they seem to say."""

from __future__ import annotations

from typing import NamedTuple

from lbdsl.core.diagnostic import Fix
from lbdsl.core.units import Unit
from lbdsl.recipe.schema import Arithmetic, CostOf, Expr, Fact, Negate, PostScore, Score
from lbdsl.recipe.scope import Scope, replace
from lbdsl.recipe.typed import Typed
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

SMALLEST_BYTES = 1024
"""Fewer bytes than this are not a model's cache: a unit or a percent sign is missing."""


class Operand(NamedTuple):
    """A side of a comparison and where it stands."""

    typed: Typed
    node: tree.Expr


def bare_number_fits(scope: Scope, number: Operand, other: Operand) -> bool:
    """Whether a constant without a unit may be compared with `other`; an error otherwise.

    Losses and `influence` are plain numbers anyhow. Of a model, a metric in shares is one, as `ppl_increase` is: 5 would be
    500 %. Bytes, FLOPs and parameters are counted in whole ones.
    """
    value, quantity = number.typed.value, other.typed
    if number.typed.unit is not Unit.NONE or value is None or quantity.value is not None:
        return True
    if quantity.unit is Unit.RATIO and _of_model(_inner(quantity.expr)) and abs(value) > 1:
        name = one_line(other.node.span.text)
        said = f"`{name}` is a share, and {_said(number)} without `%` is {100 * value:g} %"
        _refuse(scope, number, said, value / 100, "write")
        return False
    if quantity.unit in (Unit.BYTES, Unit.FLOPS, Unit.PARAMS) and _counted(quantity.expr):
        few = quantity.unit is Unit.BYTES and quantity.cost and 0 < abs(value) < SMALLEST_BYTES
        if few or value != int(value):
            unit = {Unit.BYTES: "bytes", Unit.FLOPS: "FLOPs", Unit.PARAMS: "parameters"}[quantity.unit]
            what = (
                f"{_said(number)} is that many {unit}, and a unit is missing"
                if few
                else (f"{_said(number)} is no number of {unit}")
            )
            _refuse(scope, number, what, value if 0 < value <= 1 and quantity.cost else None, _example(quantity))
            return False
    return True


def _refuse(scope: Scope, number: Operand, message: str, share: float | None, words: str) -> None:
    """The error; `share` is what was meant as a percentage, to be written in place of a literal number."""
    fix: Fix | None = None
    helps = [words]
    if share is not None:
        text = f"{100 * share:.12g}%"
        # `ppl_increase < 1.5` may mean 1.5 % or half as much again.
        if isinstance(number.node, tree.Number) and not 1 < number.node.value < 2:
            fix = replace(number.node.span, text)
        helps = [f"write `{text}`" if words == "write" else f"write `{text}`, a share of the base's"]
    scope.error("LB107", message, number.node.span, help=tuple(helps), fix=fix)


def _example(quantity: Typed) -> str:
    amount = {Unit.BYTES: "2GiB", Unit.FLOPS: "100M", Unit.PARAMS: "100M"}[quantity.unit]
    return f"as in `50%` of the base's, or `{amount}`" if quantity.cost else f"as in `{amount}`"


def _said(number: Operand) -> str:
    """`5`, or `$most`, which is 5."""
    text, value = one_line(number.node.span.text), f"{number.typed.value:.12g}"
    return f"`{text}`" if isinstance(number.node, tree.Number) else f"`{text}` ({value})"


def _of_model(expr: Expr) -> bool:
    """Whether it is a metric of the changed or the finished model."""
    return isinstance(expr, PostScore) or (isinstance(expr, Score) and expr.joint)


def _inner(expr: Expr) -> Expr:
    while isinstance(expr, Negate):
        expr = expr.operand
    return expr


def _counted(expr: Expr) -> bool:
    """A cost or a fact, or sums of them; after a multiplication or division any number may be meant."""
    expr = _inner(expr)
    if isinstance(expr, Arithmetic):
        return all(op in "+-" for op in expr.ops) and any(_counted(part) for part in expr.operands)
    return isinstance(expr, CostOf | Fact)


def is_plain_fact(expr: Expr) -> bool:
    """A fact of the model, or sums and multiples of facts; a quotient may well be a share."""
    expr = _inner(expr)
    if isinstance(expr, Arithmetic):
        return "/" not in expr.ops and any(is_plain_fact(part) for part in expr.operands)
    return isinstance(expr, Fact)
