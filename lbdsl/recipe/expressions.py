"""Expressions: tree to schema, with types, units, phases and scopes checked.

In a rule (`where`, `by`) names are scores of one layer; in `assert`, `requires` and `until` they are values of the
whole model.
"""

from __future__ import annotations

from typing import Any

from lbdsl.core.diagnostic import Label
from lbdsl.core.registry import nearest
from lbdsl.core.units import Unit
from lbdsl.metrics import metrics
from lbdsl.recipe.calls import COST_NAMES, POST_NAMES, is_metric, resolve_score, unknown_value
from lbdsl.recipe.comparisons import compare
from lbdsl.recipe.constants import combined, constant, finite, join_units, warn_decimal, whole
from lbdsl.recipe.schema import (
    Arithmetic,
    Boolean,
    CostOf,
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
from lbdsl.recipe.typed import Place, Typed, kind_name, latest
from lbdsl.syntax import tree

_UNITS = {"nats/token": Unit.NATS, "1": Unit.RATIO}
FACTS: dict[str, tuple[str, Unit]] = {
    "family": ("text", Unit.NONE),
    "architecture": ("text", Unit.NONE),
    "dtype": ("text", Unit.NONE),
    "tied": ("boolean", Unit.NONE),
    "layers": ("number", Unit.NONE),
    "hidden": ("number", Unit.NONE),
    "heads": ("number", Unit.NONE),
    "kv_heads": ("number", Unit.NONE),
    "head_dim": ("number", Unit.NONE),
    "intermediate": ("number", Unit.NONE),
    "vocab": ("number", Unit.NONE),
    "positions": ("number", Unit.TOKENS),
    "params": ("number", Unit.PARAMS),
    "kv_bytes_per_token": ("number", Unit.BYTES),
}


def resolve_condition(scope: Scope, node: tree.Expr, place: Place) -> Typed | None:
    """An expression that is true or false, or None with errors."""
    typed = resolve_expr(scope, node, place)
    if typed is not None and typed.kind != "boolean":
        scope.error(
            "LB123",
            f"`{place}` wants a condition, not {kind_name(typed.kind)}",
            node.span,
            help=_compare_it(typed, _one_line(node.span.text)),
        )
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


def report_model_value(scope: Scope, call: tree.Call) -> bool:
    """Report a value of the model where a layer's is wanted; False when the name is none."""
    name = call.name.name
    if name in POST_NAMES:
        scope.error(
            "LB108",
            f"`{name}` is known only after healing",
            call.span,
            help="a rule decides before healing; move it to `assert`",
        )
    elif name in COST_NAMES:
        scope.error(
            "LB109",
            f"`{name}` is a value of the whole model, and a layer's is wanted",
            call.span,
            help=f"use `{name}` in `until`, `requires` or `assert`",
        )
    else:
        return False
    return True


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


def _fact(scope: Scope, node: tree.Dotted) -> Typed | None:
    head, _, name = node.name.partition(".")
    if head != "model" or name not in FACTS:
        near = nearest(name, FACTS)
        listed = "facts: " + ", ".join(f"`model.{fact}`" for fact in sorted(FACTS))
        scope.error(
            "LB113",
            f"no fact `{node.name}`",
            node.span,
            help=(f"did you mean `model.{near}`?", listed) if near else listed,
            fix=replace(node.span, f"model.{near}") if near else None,
        )
        return None
    kind, unit = FACTS[name]
    return Typed(Fact.model_construct(name=name, at=at(node)), kind, unit)


def _call(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if node.args is None and name in ("true", "false"):
        return Typed(Boolean.model_construct(value=name == "true", at=at(node)), "boolean")
    if place == "where":
        if is_metric(name):
            score = resolve_score(scope, node)
            return (
                None
                if score is None
                else Typed(score, "number", _UNITS.get(metrics()[score.metric].unit, Unit.NONE), Phase.MEASURED)
            )
        if not report_model_value(scope, node):
            unknown_value(scope, node, rule=True)
        return None
    if name in POST_NAMES:
        return _post(scope, node, place)
    if name in COST_NAMES:
        return _cost(scope, node, place)
    if is_metric(name):
        return _joint(scope, node, place)
    unknown_value(scope, node, rule=False)
    return None


def _post(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if place not in ("assert", "minimize", "maximize", "subject to"):
        scope.error(
            "LB108",
            f"`{name}` is known only after healing",
            node.span,
            help=f"`{place}` decides before healing; move it to `assert`",
        )
        return None
    if node.args is not None:
        scope.error(
            "LB104", f"`{name}` takes no arguments", node.span, help=f"write `{name}`", fix=replace(node.span, name)
        )
        return None
    unit = Unit.NATS if name == "kl_healed" else Unit.RATIO
    return Typed(PostScore.model_construct(name=name, at=at(node)), "number", unit, Phase.POST)


def _cost(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if name == "params":
        if node.args is not None:
            scope.error(
                "LB104",
                "`params` takes no arguments",
                node.span,
                help="write `params`",
                fix=replace(node.span, "params"),
            )
            return None
        return Typed(CostOf.model_construct(name="params", at=at(node)), "number", Unit.PARAMS, cost=True)
    if node.args is None or len(node.args) != 1 or node.args[0].key is not None:
        scope.error("LB104", f"`{name}` needs a context", node.span, help=f"as in `{name}(32Ki)`, in tokens")
        return None
    argument = node.args[0].value
    value = constant(scope, argument)
    context = None if value is None else whole(scope, value, (Unit.TOKENS,), "a context")
    if value is None or context is None:
        return None
    if context < 1:
        scope.error("LB105", f"a context of {context} tokens", argument.span, help="a context is at least 1 token")
        return None
    warn_decimal(scope, value)
    unit = Unit.BYTES if name == "kv" else Unit.FLOPS
    return Typed(CostOf.model_construct(name=name, ctx=context, at=at(node)), "number", unit, cost=True)


def _joint(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    cls = metrics().get(name)
    joint = sorted(kind for kind, known in metrics().items() if known.joint)
    if cls is None or not cls.joint:
        instead = scope.metric if scope.metric in joint else joint[0] if joint else ""
        scope.error(
            "LB109",
            f"`{name}` is a layer's value, and the model's is wanted",
            node.span,
            help=f"the whole changed model has `{instead}`",
            fix=replace(node.span, instead) if instead else None,
        )
        return None
    if node.args is not None:
        scope.error(
            "LB109",
            f"`{name}` of the whole model takes no action",
            node.span,
            help=f"`{name}` is measured with all changes of the plan at once",
            fix=replace(node.span, name),
        )
        return None
    if place == "until":
        scope.error(
            "LB315",
            f"`until` cannot use `{name}` of the whole model",
            node.span,
            help=("give a cost, as in `until kv(32Ki) <= 50%`", f"or gate with `assert {name} < ...`"),
        )
        return None
    return Typed(
        Score.model_construct(name=name, metric=name, action=None, joint=True, at=at(node)),
        "number",
        _UNITS.get(cls.unit, Unit.NONE),
        Phase.MEASURED,
    )


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
    elif typed.phase is Phase.POST and typed.unit is Unit.RATIO:
        bound = ">= 90%" if text == "agreement" else "< 5%"
    elif typed.phase is Phase.STATIC:
        bound = _BOUNDS.get(typed.unit, ">= 24")
    else:
        bound = "< 0.1"
    return f"compare it, as in `{text} {bound}`"


def _one_line(text: str) -> str:
    flat: Any = " ".join(text.split())
    return flat if len(flat) <= 40 else "VALUE"
