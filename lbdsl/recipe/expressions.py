"""Expressions: names replaced by what they mean, with types, units, phases and scopes checked.

In a rule (`where`, `by`) names are scores of one layer; in `assert`, `requires` and `until` they are values of the
whole model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lbdsl.core.diagnostic import Label
from lbdsl.core.units import Unit
from lbdsl.metrics import metrics
from lbdsl.recipe.comparisons import check_comparison, refuse_unquoted
from lbdsl.recipe.constants import calculated, constant
from lbdsl.recipe.patterns import bad_regex
from lbdsl.recipe.schema import Expr, Fact, Phase, PostScore, Score
from lbdsl.recipe.scope import Scope, Unresolved, attempt, each, rebuilt
from lbdsl.recipe.types import Place, has_cost, kind_name, kind_of, phase_of, unit_of, value_of
from lbdsl.recipe.values import resolve_fact, resolve_value
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line


def resolve_condition(scope: Scope, node: tree.Expr, place: Place) -> Expr:
    """An expression that is true or false."""
    expr = resolve_expr(scope, node, place)
    if kind_of(expr) != "boolean":
        scope.fail("LB123", f"`{place}` wants a condition, not {kind_name(expr)}", node.span, help=_compare_it(expr, node))
    return expr


def resolve_expr(scope: Scope, node: tree.Expr, place: Place) -> Expr:
    """Any expression."""
    match node:
        case tree.Variable() if node.name in scope.expressions:
            return _named(scope, node, place)
        case tree.Number() | tree.String() | tree.Variable():
            return constant(scope, node)
        case tree.Pattern():
            scope.fail("LB122", "a pattern stands only after `matches`", node.span)
        case tree.Dotted():
            return resolve_fact(scope, node)
        case tree.Call():
            return resolve_value(scope, node, place)
        case tree.Items():
            return rebuilt(node, items=lambda item: resolve_expr(scope, item, place))
        case tree.Compare():
            return _compare(scope, node, place)
        case tree.Logic():
            return rebuilt(node, operands=lambda operand: _operand(scope, operand, place, node.op))
        case tree.Not():
            return rebuilt(node, operand=lambda operand: _operand(scope, operand, place, "not"))
        case tree.Minus():
            return rebuilt(node, operand=lambda operand: _number(scope, operand, place))
        case tree.Arithmetic():
            found = rebuilt(node, operands=lambda operand: _number(scope, operand, place))
            calculated(scope, node, found.operands, among=True)
            return found
        case _:
            raise AssertionError("meanings are found here, not written")


def _named(scope: Scope, node: tree.Variable, place: Place) -> Expr:
    """The expression that `$name` stands for, at one place; errors in it name the place that asks for it."""
    scope.used.add(f"${node.name}")
    before = len(scope.diagnostics)
    try:
        return resolve_expr(scope, scope.expressions[node.name].node, place)
    finally:
        for index in range(before, len(scope.diagnostics)):
            found = scope.diagnostics[index]
            if found.is_error and found.span is not None and found.span != node.span:
                scope.diagnostics[index] = replace(found, labels=(*found.labels, Label(node.span, "asked for here")))


def _number(scope: Scope, node: tree.Expr, place: Place) -> Expr:
    expr = resolve_expr(scope, node, place)
    if kind_of(expr) != "number":
        scope.fail("LB106", f"a number is wanted, not {kind_name(expr)}", node.span)
    return expr


def _operand(scope: Scope, node: tree.Expr, place: Place, op: str) -> Expr:
    """An operand of `and`, `or` or `not`."""
    expr = resolve_expr(scope, node, place)
    if kind_of(expr) != "boolean":
        message = f"`{op}` joins conditions, and this is {kind_name(expr)}"
        scope.fail("LB123", message, node.span, help="compare it with something")
    return expr


def _compare(scope: Scope, node: tree.Compare, place: Place) -> tree.Compare:
    first = attempt(resolve_expr, scope, node.operands[0], place)

    def resolve_next(op: tree.Operator, operand: tree.Expr) -> Expr:
        if op.text == "matches":
            return _pattern(scope, operand)
        if first is not None and kind_of(first) == "text":
            refuse_unquoted(scope, operand)
        return resolve_expr(scope, operand, place)

    others = each(lambda pair: resolve_next(*pair), zip(node.ops, node.operands[1:], strict=True))
    if first is None:
        raise Unresolved
    found = tree.Compare(node.span, (first, *others), node.ops)
    check_comparison(scope, node, found.operands)
    return found


def _pattern(scope: Scope, node: tree.Expr) -> tree.Pattern:
    """A regular expression, checked by the engine that will run it."""
    if not isinstance(node, tree.Pattern):
        scope.fail("LB122", "`matches` wants a pattern", node.span, help='as in `model.family matches ~"qwen.*"`')
    reason = bad_regex(node.value)
    if reason is not None:
        scope.fail("LB122", f"bad pattern: {reason}", node.span, help="patterns are RE2 regular expressions (linear time)")
    return node


_BOUNDS = {Unit.BYTES: "<= 4GiB", Unit.FLOPS: "<= 1G", Unit.PARAMS: "<= 1G", Unit.TOKENS: ">= 2Ki"}


def _compare_it(expr: Expr, node: tree.Expr) -> str | tuple[str, ...]:
    """How a value is made a condition, with a bound that fits it."""
    kind, unit, phase = kind_of(expr), unit_of(expr), phase_of(expr)
    text = one_line(node.span.text)
    text = text if len(text) <= 40 else "VALUE"
    bound: Any
    if kind == "text" and isinstance(expr, Fact):
        bound = '== "llama"'
    elif kind != "number" or value_of(expr) is not None:
        return ()
    elif has_cost(expr):
        bound = "<= 50%"
    elif isinstance(expr, Score | PostScore):
        bound = metrics()[expr.metric if isinstance(expr, Score) else expr.name].bound
    elif phase is Phase.POST and unit is Unit.RATIO:
        bound = "< 5%"
    elif phase is Phase.STATIC:
        bound = _BOUNDS.get(unit, ">= 24")
    else:
        bound = "< 0.1"
    return f"compare it, as in `{text} {bound}`"
