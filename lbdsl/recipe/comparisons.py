"""Comparisons: which values may be compared, and with what."""

from __future__ import annotations

from collections.abc import Callable

from lbdsl.core.diagnostic import Edit, Fix
from lbdsl.core.units import Unit
from lbdsl.recipe.bare import Operand, bare_number_fits, is_plain_fact
from lbdsl.recipe.patterns import bad_regex
from lbdsl.recipe.schema import Compare, Phase, Text
from lbdsl.recipe.scope import Scope, at
from lbdsl.recipe.typed import Place, Typed, kind_name, latest
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line

Resolve = Callable[[Scope, tree.Expr, Place], Typed | None]


def compare(scope: Scope, node: tree.Compare, place: Place, operand_of: Resolve) -> Typed | None:
    """A chain of comparisons, each of them checked; `operand_of` resolves an operand."""
    found: list[Typed | None] = []
    for index, operand in enumerate(node.operands):
        first = found[0] if found else None
        if index and node.ops[index - 1].text == "matches":
            found.append(_pattern(scope, operand))
        elif first is not None and first.kind == "text" and _unquoted(scope, operand):
            found.append(None)
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


def _unquoted(scope: Scope, node: tree.Expr) -> bool:
    """Bare words where a text is compared: an error for each."""
    words = [
        item
        for item in (node.items if isinstance(node, tree.Items) else (node,))
        if isinstance(item, tree.Call) and item.args is None and item.name.name not in ("true", "false")
    ]
    for word in words:
        quoted = f'"{word.name.name}"'
        scope.error(
            "LB106",
            f"`{word.name.name}` is a name, and a text is wanted",
            word.span,
            help="texts stand in double quotes",
            fix=Fix(f"write `{quoted}`", (Edit(word.span, quoted),)),
        )
    return bool(words)


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
        for item, item_node in zip(right.items, _item_nodes(right_node), strict=False):
            if item.kind != left.kind:
                scope.error("LB106", f"{kind_name(left.kind)} is never {kind_name(item.kind)}", item_node.span)
                return False
            if left.kind == "number" and not _units(
                scope, op.text, Operand(left, node.operands[index]), Operand(item, item_node)
            ):
                return False
        return True
    if left.kind != right.kind:
        scope.error("LB106", f"`{op.text}` compares {kind_name(left.kind)} with {kind_name(right.kind)}", right_node.span)
        return False
    if left.kind != "number":
        if op.text not in ("==", "!=") or left.kind == "list":
            scope.error("LB106", f"`{op.text}` does not compare {left.kind}", op.span, help="use `==`, `!=` or `in`")
            return False
        return True
    return _units(scope, op.text, Operand(left, node.operands[index]), Operand(right, right_node))


def _units(scope: Scope, op: str, left: Operand, right: Operand) -> bool:
    """Whether the units of two numbers go together."""
    units = (left.typed.unit, right.typed.unit)
    if Unit.RATIO in units and units[0] is not units[1]:
        share, other = (left, right) if units[0] is Unit.RATIO else (right, left)
        if other.typed.cost and share.typed.phase is Phase.STATIC and op not in ("in", "not in"):
            return True
        if other.typed.unit is Unit.NONE and share.typed.value is not None and is_plain_fact(other.typed.expr):
            scope.error(
                "LB107",
                f"`{_text(other)}` is a plain number, and `{_text(share)}` is a share",
                share.node.span,
                help="a share compares with `kv(...)`, `flops(...)` and `params`",
            )
            return False
    if units[0] is units[1] or Unit.NONE in units:
        return bare_number_fits(scope, left, right) and bare_number_fits(scope, right, left)
    help: str | tuple[str, ...] = ()
    if Unit.RATIO in units:
        help = "a share compares with `kv(...)`, `flops(...)` and `params`"
        if Unit.NATS in units:
            help = "`nll < 0.1` is about 10.5 % more perplexity; after healing `assert ppl_increase < 10%`"
    whole = left.node.span.to(right.node.span) if op not in ("in", "not in") else right.node.span
    scope.error("LB107", f"`{op}` compares {units[0].value} with {units[1].value}", whole, help=help)
    return False


def _text(operand: Operand) -> str:
    return one_line(operand.node.span.text)


def _item_nodes(node: tree.Expr) -> tuple[tree.Expr, ...]:
    return node.items if isinstance(node, tree.Items) else (node,) * 1000


def _pattern(scope: Scope, node: tree.Expr) -> Typed | None:
    """A regular expression, checked by the engine that will run it."""
    if not isinstance(node, tree.Pattern):
        scope.error("LB122", "`matches` wants a pattern", node.span, help='as in `model.family matches ~"qwen.*"`')
        return None
    reason = bad_regex(node.value)
    if reason is not None:
        scope.error("LB122", f"bad pattern: {reason}", node.span, help="patterns are RE2 regular expressions (linear time)")
        return None
    return Typed(Text.model_construct(value=node.value, at=at(node)), "pattern")
