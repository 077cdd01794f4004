"""Expressions: tree to schema, with types, units, phases and scopes checked.

In a rule (`where`, `by`) names are scores of one layer; in `assert`, `requires` and `until` they are values of the
whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lbdsl.core.registry import nearest
from lbdsl.core.units import Unit
from lbdsl.metrics import metrics
from lbdsl.recipe.calls import COST_NAMES, POST_NAMES, is_metric, resolve_score, unknown_value
from lbdsl.recipe.constants import constant, join_units, warn_decimal, whole
from lbdsl.recipe.schema import (
    Arithmetic,
    Boolean,
    Compare,
    CostOf,
    Expr,
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
from lbdsl.recipe.scope import Constant, Scope, at, replace
from lbdsl.syntax import tree

Place = Literal["where", "requires", "until", "assert"]
"""Where an expression stands; all but `where` ask about the whole model."""

_UNITS = {"nats/token": Unit.NATS, "1": Unit.RATIO}
_FACTS: dict[str, tuple[str, Unit]] = {
    "family": ("text", Unit.NONE), "architecture": ("text", Unit.NONE), "dtype": ("text", Unit.NONE),
    "tied": ("boolean", Unit.NONE), "layers": ("number", Unit.NONE), "hidden": ("number", Unit.NONE),
    "heads": ("number", Unit.NONE), "kv_heads": ("number", Unit.NONE), "head_dim": ("number", Unit.NONE),
    "intermediate": ("number", Unit.NONE), "vocab": ("number", Unit.NONE), "positions": ("number", Unit.TOKENS),
    "params": ("number", Unit.PARAMS), "kv_bytes_per_token": ("number", Unit.BYTES),
}
_ORDER = (Phase.STATIC, Phase.MEASURED, Phase.POST)


@dataclass(frozen=True)
class Typed:
    """An expression with what is known of it. `kind` is number, text, boolean, list or pattern."""

    expr: Expr
    kind: str
    unit: Unit = Unit.NONE
    phase: Phase = Phase.STATIC
    cost: bool = False
    """Contains a cost of the changed model, which a share can be compared with."""


def resolve_condition(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    """An expression that is true or false, or None with errors."""
    typed = resolve_expr(scope, node, place)
    if typed is not None and typed.kind != "boolean":
        scope.error("LB123", f"`{place}` wants a condition, not {_a(typed.kind)}", node.span,
                    help=f"compare it, as in `{_one_line(node.span.text)} < 0.1`" if typed.kind == "number" else
                    "compare it, as in `a == b`")
        return None
    return typed


def resolve_expr(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    """Any expression; None with errors."""
    match node:
        case tree.Number() | tree.String() | tree.Variable():
            value = constant(scope, node)
            return None if value is None else _constant(value, node)
        case tree.Pattern():
            scope.error("LB122", "a pattern stands only after `matches`", node.span)
            return None
        case tree.Dotted():
            return _fact(scope, node)
        case tree.Call():
            return _call(scope, node, place)
        case tree.Items():
            items = [resolve_expr(scope, item, place) for item in node.items]
            good = [item for item in items if item is not None]
            if len(good) < len(items):
                return None
            return Typed(Items(items=tuple(item.expr for item in good), at=at(node)), "list",
                         phase=_latest(good), cost=any(item.cost for item in good))
        case tree.Compare():
            return _compare(scope, node, place)
        case tree.Logic():
            parts = _conditions(scope, node.operands, place, node.op)
            return None if parts is None else Typed(
                Logic(op=node.op, operands=tuple(part.expr for part in parts), at=at(node)), "boolean",  # type: ignore[arg-type]
                phase=_latest(parts))
        case tree.Not():
            parts = _conditions(scope, (node.operand,), place, "not")
            return None if parts is None else Typed(Not(operand=parts[0].expr, at=at(node)), "boolean",
                                                    phase=parts[0].phase)
        case tree.Minus():
            inner = _number(scope, node.operand, place)
            return None if inner is None else Typed(Negate(operand=inner.expr, at=at(node)), "number", inner.unit,
                                                    inner.phase, inner.cost)
        case tree.Arithmetic():
            return _arithmetic(scope, node, place)


def report_model_value(scope: Scope, call: tree.Call) -> bool:
    """Report a value of the model where a layer's is wanted; False when the name is none."""
    name = call.name.name
    if name in POST_NAMES:
        scope.error("LB108", f"`{name}` is known only after healing", call.span,
                    help="a rule decides before healing; move it to `assert`")
    elif name in COST_NAMES:
        scope.error("LB109", f"`{name}` is a value of the whole model, and a layer's is wanted", call.span,
                    help=f"use `{name}` in `until`, `requires` or `assert`")
    else:
        return False
    return True


def _constant(value: Constant, node: tree.Node) -> Typed:
    if isinstance(value.value, tuple):
        items = tuple(_constant(item, node).expr for item in value.value)
        return Typed(Items(items=items, at=at(node)), "list")
    if isinstance(value.value, bool):
        return Typed(Boolean(value=value.value, at=at(node)), "boolean")
    if isinstance(value.value, str):
        return Typed(Text(value=value.value, at=at(node)), "text")
    return Typed(Number(value=value.value, unit=value.unit, at=at(node)), "number", value.unit)


def _fact(scope: Scope, node: tree.Dotted) -> Typed | None:
    head, _, name = node.name.partition(".")
    if head != "model" or name not in _FACTS:
        near = nearest(name, _FACTS)
        listed = "facts: " + ", ".join(f"`model.{fact}`" for fact in sorted(_FACTS))
        scope.error("LB113", f"no fact `{node.name}`", node.span,
                    help=(f"did you mean `model.{near}`?", listed) if near else listed,
                    fix=replace(node.span, f"model.{near}") if near else None)
        return None
    kind, unit = _FACTS[name]
    return Typed(Fact(name=name, at=at(node)), kind, unit)


def _call(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if node.args is None and name in ("true", "false"):
        return Typed(Boolean(value=name == "true", at=at(node)), "boolean")
    if place == "where":
        if is_metric(name):
            score = resolve_score(scope, node)
            return None if score is None else Typed(score, "number", _UNITS.get(metrics()[score.metric].unit, Unit.NONE),
                                                    Phase.MEASURED)
        if not report_model_value(scope, node):
            unknown_value(scope, node, rule=True)
        return None
    if name in POST_NAMES:
        return _post(scope, node, place)
    if name in COST_NAMES:
        return _cost(scope, node, place)
    if is_metric(name):
        return _joint(scope, node)
    unknown_value(scope, node, rule=False)
    return None


def _post(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if place != "assert":
        scope.error("LB108", f"`{name}` is known only after healing", node.span,
                    help=f"`{place}` decides before healing; move it to `assert`")
        return None
    if node.args is not None:
        scope.error("LB104", f"`{name}` takes no arguments", node.span, help=f"write `{name}`",
                    fix=replace(node.span, name))
        return None
    unit = Unit.NATS if name == "kl_healed" else Unit.RATIO
    return Typed(PostScore(name=name, at=at(node)), "number", unit, Phase.POST)  # type: ignore[arg-type]


def _cost(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if name == "params":
        if node.args is not None:
            scope.error("LB104", "`params` takes no arguments", node.span, help="write `params`",
                        fix=replace(node.span, "params"))
            return None
        return Typed(CostOf(name="params", at=at(node)), "number", Unit.PARAMS, cost=True)
    if node.args is None or len(node.args) != 1 or node.args[0].key is not None:
        scope.error("LB104", f"`{name}` needs a context", node.span, help=f"as in `{name}(32Ki)`, in tokens")
        return None
    argument = node.args[0].value
    value = constant(scope, argument)
    context = None if value is None else whole(scope, value, (Unit.TOKENS,), "a context")
    if context is None:
        return None
    if context < 1:
        scope.error("LB105", f"a context of {context} tokens", argument.span, help="a context is at least 1 token")
        return None
    warn_decimal(scope, argument)
    unit = Unit.BYTES if name == "kv" else Unit.FLOPS
    return Typed(CostOf(name=name, ctx=context, at=at(node)), "number", unit, cost=True)  # type: ignore[arg-type]


def _joint(scope: Scope, node: tree.Call) -> Typed | None:
    name = node.name.name
    cls = metrics().get(name)
    joint = sorted(kind for kind, known in metrics().items() if known.joint)
    if cls is None or not cls.joint:
        instead = scope.metric if scope.metric in joint else joint[0] if joint else ""
        scope.error("LB109", f"`{name}` is a layer's value, and the model's is wanted", node.span,
                    help=f"the whole changed model has `{instead}`",
                    fix=replace(node.span, instead) if instead else None)
        return None
    if node.args is not None:
        scope.error("LB109", f"`{name}` of the whole model takes no action", node.span,
                    help=f"`{name}` is measured with all changes of the plan at once",
                    fix=replace(node.span, name))
        return None
    return Typed(Score(name=name, metric=name, action=None, joint=True, at=at(node)), "number",
                 _UNITS.get(cls.unit, Unit.NONE), Phase.MEASURED)


def _number(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    typed = resolve_expr(scope, node, place)
    if typed is not None and typed.kind != "number":
        scope.error("LB106", f"a number is wanted, not {_a(typed.kind)}", node.span)
        return None
    return typed


def _conditions(scope: Scope, nodes: tuple[tree.Expr, ...], place: Place, op: str) -> list[Typed] | None:
    parts = []
    for node in nodes:
        typed = resolve_expr(scope, node, place)
        if typed is not None and typed.kind != "boolean":
            scope.error("LB123", f"`{op}` joins conditions, and this is {_a(typed.kind)}", node.span,
                        help="compare it with something")
        elif typed is not None:
            parts.append(typed)
    return parts if len(parts) == len(nodes) else None


def _arithmetic(scope: Scope, node: tree.Arithmetic, place: Place) -> Typed | None:
    found = [_number(scope, operand, place) for operand in node.operands]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    unit = parts[0].unit
    for op, part, operand in zip(node.ops, parts[1:], node.operands[1:], strict=True):
        joined = join_units(op, unit, part.unit)
        if joined is None:
            scope.error("LB107", f"`{op}` between {unit.value} and {part.unit.value}", operand.span,
                        help="both sides must be of one unit, or one a plain number")
            return None
        unit = joined
    expr = Arithmetic(operands=tuple(part.expr for part in parts), ops=node.ops, at=at(node))  # type: ignore[arg-type]
    return Typed(expr, "number", unit, _latest(parts), any(part.cost for part in parts))


def _compare(scope: Scope, node: tree.Compare, place: Place) -> Typed | None:
    found: list[Typed | None] = []
    for index, operand in enumerate(node.operands):
        if index and node.ops[index - 1].text == "matches":
            found.append(_pattern(scope, operand))
        else:
            found.append(resolve_expr(scope, operand, place))
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    good = [_comparable(scope, node, index, parts) for index in range(len(node.ops))]
    if not all(good):
        return None
    expr = Compare(operands=tuple(part.expr for part in parts), ops=tuple(op.text for op in node.ops), at=at(node))  # type: ignore[arg-type]
    return Typed(expr, "boolean", phase=_latest(parts))


def _comparable(scope: Scope, node: tree.Compare, index: int, parts: list[Typed]) -> bool:
    """Whether `a OP b` makes sense; an error otherwise."""
    op, left, right = node.ops[index], parts[index], parts[index + 1]
    right_node = node.operands[index + 1]
    if op.text == "matches":
        if left.kind != "text":
            scope.error("LB106", f"`matches` looks at text, not at {_a(left.kind)}", node.operands[index].span)
        return left.kind == "text"
    if op.text in ("in", "not in"):
        if right.kind != "list":
            scope.error("LB106", f"`{op.text}` wants a list", right_node.span, help='as in `in ["llama", "qwen3"]`')
            return False
        assert isinstance(right.expr, Items)
        for item, item_node in zip(right.expr.items, _item_nodes(right_node), strict=False):
            kind = {"text": "text", "boolean": "boolean", "items": "list"}.get(item.node, "number")
            if kind != left.kind:
                scope.error("LB106", f"{_a(left.kind)} is never {_a(kind)}", item_node.span)
                return False
        return True
    if left.kind != right.kind:
        scope.error("LB106", f"`{op.text}` compares {_a(left.kind)} with {_a(right.kind)}", right_node.span)
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
    scope.error("LB107", f"`{node.ops[index].text}` compares {left.unit.value} with {right.unit.value}",
                node.operands[index].span.to(node.operands[index + 1].span), help=help)
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
        scope.error("LB122", f"bad pattern: {reason}", node.span, help="patterns are linear-time regular expressions (RE2)")
        return None
    return Typed(Text(value=node.value, at=at(node)), "pattern")


def _latest(parts: list[Typed]) -> Phase:
    return max((part.phase for part in parts), key=_ORDER.index, default=Phase.STATIC)


def _a(kind: str) -> str:
    return kind if kind == "text" else f"a {kind}"


def _one_line(text: str) -> str:
    flat: Any = " ".join(text.split())
    return flat if len(flat) <= 40 else "VALUE"
