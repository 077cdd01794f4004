"""Comparisons: which values may be compared, and with what."""

from __future__ import annotations

from collections.abc import Callable

from lbdsl.core.units import Unit
from lbdsl.recipe.schema import Compare, Items, Text
from lbdsl.recipe.scope import Scope, at
from lbdsl.recipe.typed import Place, Typed, kind_name, latest
from lbdsl.syntax import tree

Resolve = Callable[[Scope, tree.Expr, Place], Typed | None]


def compare(scope: Scope, node: tree.Compare, place: Place, operand_of: Resolve) -> Typed | None:
    """A chain of comparisons, each of them checked; `operand_of` resolves an operand."""
    found: list[Typed | None] = []
    for index, operand in enumerate(node.operands):
        if index and node.ops[index - 1].text == "matches":
            found.append(_pattern(scope, operand))
        else:
            found.append(operand_of(scope, operand, place))
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    good = [_comparable(scope, node, index, parts) for index in range(len(node.ops))]
    if not all(good):
        return None
    expr = Compare.model_construct(
        operands=tuple(part.expr for part in parts), ops=tuple(op.text for op in node.ops), at=at(node)
    )
    return Typed(expr, "boolean", phase=latest(parts))


def _comparable(scope: Scope, node: tree.Compare, index: int, parts: list[Typed]) -> bool:
    """Whether `a OP b` makes sense; an error otherwise."""
    op, left, right = node.ops[index], parts[index], parts[index + 1]
    right_node = node.operands[index + 1]
    if op.text == "matches":
        if left.kind != "text":
            scope.error("LB106", f"`matches` looks at text, not at {kind_name(left.kind)}", node.operands[index].span)
        return left.kind == "text"
    if op.text in ("in", "not in"):
        if right.kind != "list":
            scope.error("LB106", f"`{op.text}` wants a list", right_node.span, help='as in `in ["llama", "qwen3"]`')
            return False
        assert isinstance(right.expr, Items)
        for item, item_node in zip(right.expr.items, _item_nodes(right_node), strict=False):
            kind = {"text": "text", "boolean": "boolean", "items": "list"}.get(item.node, "number")
            if kind != left.kind:
                scope.error("LB106", f"{kind_name(left.kind)} is never {kind_name(kind)}", item_node.span)
                return False
        return True
    if left.kind != right.kind:
        scope.error(
            "LB106", f"`{op.text}` compares {kind_name(left.kind)} with {kind_name(right.kind)}", right_node.span
        )
        return False
    if left.kind != "number":
        if op.text not in ("==", "!=") or left.kind == "list":
            scope.error("LB106", f"`{op.text}` does not compare {left.kind}", op.span, help="use `==`, `!=` or `in`")
            return False
        return True
    return _units(scope, node, index, left, right)


def _units(scope: Scope, node: tree.Compare, index: int, left: Typed, right: Typed) -> bool:
    if left.unit is right.unit or Unit.NONE in (left.unit, right.unit):
        return True
    if Unit.RATIO in (left.unit, right.unit) and (left.cost or right.cost):
        return True
    help: str | tuple[str, ...] = ()
    if Unit.RATIO in (left.unit, right.unit):
        help = "a share compares with `kv(...)`, `flops(...)` and `params`"
        if Unit.NATS in (left.unit, right.unit):
            help = "`nll < 0.1` is about 10.5 % more perplexity; after healing `assert ppl_increase < 10%`"
    scope.error(
        "LB107",
        f"`{node.ops[index].text}` compares {left.unit.value} with {right.unit.value}",
        node.operands[index].span.to(node.operands[index + 1].span),
        help=help,
    )
    return False


def _item_nodes(node: tree.Expr) -> tuple[tree.Node, ...]:
    return node.items if isinstance(node, tree.Items) else (node,) * 1000


def _pattern(scope: Scope, node: tree.Expr) -> Typed | None:
    """A regular expression, checked by the engine that will run it."""
    if not isinstance(node, tree.Pattern):
        scope.error("LB122", "`matches` wants a pattern", node.span, help='as in `model.family matches ~"qwen.*"`')
        return None
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(node.value, options)
    except re2.error as problem:
        reason = problem.args[0].decode() if isinstance(problem.args[0], bytes) else str(problem.args[0])
        if "invalid escape sequence: \\" in reason and reason[-1:].isdigit():
            reason = "back-references are not supported"
        elif "(?" in reason:
            reason += "; look-around is not supported"
        scope.error(
            "LB122", f"bad pattern: {reason}", node.span, help="patterns are RE2 regular expressions (linear time)"
        )
        return None
    return Typed(Text.model_construct(value=node.value, at=at(node)), "pattern")
