"""`let $name = EXPR`: a constant, or an expression that is read anew wherever the name stands.

`let $half = kv(32Ki) <= 50%` may stand in `until` and in `assert`; `let $mild = nll < 0.1` in `where`. What such an
expression means, and whether it may be asked for, is decided where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Label
from lbdsl.recipe.constants import constant
from lbdsl.recipe.scope import Scope
from lbdsl.recipe.typed import Place, Typed
from lbdsl.syntax import tree

MAX_SIZE = 1000
MAX_DEPTH = 32


_PLACES: tuple[Place, ...] = ("where", "assert")
"""What makes sense nowhere here does so nowhere: the other places take less than `assert` does."""


class Expression(NamedTuple):
    """What a `let` names; `size` counts the nodes it stands for and `depth` their nesting, other names put in place."""

    node: tree.Expr
    size: int
    depth: int


def resolve_let(scope: Scope, node: tree.Let) -> None:
    """Define the variable; wrong values are reported here, once."""
    name = node.name.name
    if _is_constant(scope, node.value):
        value = constant(scope, node.value)
        if scope.define("$", name, node.name.span):
            scope.variables[name] = value
        return
    expression = _expression(scope, node)
    if scope.define("$", name, node.name.span):
        scope.variables[name] = None
        if expression is not None:
            scope.expressions[name] = expression


def use_expression(scope: Scope, node: tree.Variable, place: Place) -> Typed | None:
    """The expression that `$name` stands for, at one place; errors in it name the place that asks for it."""
    from lbdsl.recipe.expressions import resolve_expr  # the two modules need each other

    scope.use("$", node.name)
    before = len(scope.diagnostics)
    typed = resolve_expr(scope, scope.expressions[node.name].node, place)
    for index in range(before, len(scope.diagnostics)):
        found = scope.diagnostics[index]
        if found.is_error and found.span is not None and found.span != node.span:
            scope.diagnostics[index] = replace(found, labels=(*found.labels, Label(node.span, "asked for here")))
    return typed


def _expression(scope: Scope, node: tree.Let) -> Expression | None:
    """The expression when it makes sense at some place; else None, with the errors of the place where it makes most."""
    size, depth = _measure(scope, node.value)
    if size > MAX_SIZE or depth > MAX_DEPTH:
        what = f"more than {MAX_SIZE} parts" if size > MAX_SIZE else f"nesting deeper than {MAX_DEPTH}"
        scope.error(
            "LB212",
            f"`${node.name.name}` stands for an expression of {what}",
            node.value.span,
            help="write it out, or name less of it",
        )
        return None
    best: list[Diagnostic] | None = None
    for place in _PLACES:
        found = _tried(scope, node.value, place)
        if not found:
            return Expression(node.value, size, depth)
        best = found if best is None or len(found) < len(best) else best
    scope.diagnostics += best or []
    return None


def _tried(scope: Scope, node: tree.Expr, place: Place) -> list[Diagnostic]:
    """The errors of an expression at a place. Names that it uses count as used."""
    from lbdsl.recipe.expressions import resolve_expr

    trial = replace(scope, diagnostics=[])
    resolve_expr(trial, node, place)
    return [found for found in trial.diagnostics if found.is_error]


def _is_constant(scope: Scope, node: tree.Expr) -> bool:
    """Whether nothing in it depends on a model."""
    for part in _walk(node):
        match part:
            case tree.Dotted() | tree.Compare() | tree.Logic() | tree.Not():
                return False
            case tree.Call() if part.args is not None or part.name.name not in ("true", "false"):
                return False
            case tree.Variable() if part.name in scope.expressions:
                return False
    return True


def _walk(node: tree.Expr) -> Iterator[tree.Expr]:
    """An expression and its parts, without the arguments of calls. Nesting is limited by the parser."""
    yield node
    match node:
        case tree.Items():
            inner: tuple[tree.Expr, ...] = node.items
        case tree.Compare() | tree.Logic() | tree.Arithmetic():
            inner = node.operands
        case tree.Not() | tree.Minus():
            inner = (node.operand,)
        case _:
            inner = ()
    for part in inner:
        yield from _walk(part)


def _measure(scope: Scope, node: tree.Expr) -> tuple[int, int]:
    """Nodes and depth with names put in place."""
    size, deepest = 0, 0
    for part in _walk(node):
        named = scope.expressions.get(part.name) if isinstance(part, tree.Variable) else None
        size += 1 if named is None else named.size
        deepest = max(deepest, named.depth if named is not None else 0)
    return size, 1 + deepest
