"""Names in expressions: facts of the model, scores, costs, and values of the healed model."""

from __future__ import annotations

from lbdsl.core.registry import nearest
from lbdsl.core.units import Unit
from lbdsl.layer.cost import STATIC_VALUES
from lbdsl.metrics import Of, metrics, metrics_of
from lbdsl.recipe.calls import is_layer_score, resolve_score, unknown_value
from lbdsl.recipe.constants import constant, warn_decimal, whole
from lbdsl.recipe.schema import Boolean, CostOf, Fact, Phase, PostScore, Score
from lbdsl.recipe.schema_expr import FACTS
from lbdsl.recipe.scope import Scope, at, meant_words, replace
from lbdsl.recipe.typed import Place, Typed
from lbdsl.syntax import tree
from lbdsl.syntax.wishes import slip


def report_model_value(scope: Scope, call: tree.Call) -> bool:
    """Report a value of the model where a layer's is wanted; False when the name is none."""
    name = call.name.name
    if name in metrics_of(Of.FINISHED):
        scope.error(
            "LB108",
            f"`{name}` is known only after healing",
            call.span,
            help="a rule decides before healing; move it to `assert`",
        )
    elif name in STATIC_VALUES:
        scope.error(
            "LB109",
            f"`{name}` is a value of the whole model, and a layer's is wanted",
            call.span,
            help=f"use `{name}` in `until`, `requires` or `assert`",
        )
    elif name in metrics_of(Of.CHANGED):
        scope.error(
            "LB109",
            f"`{name}` is a value of the whole changed model, and a layer's is wanted",
            call.span,
            help=f"use `{name}` in `requires` or `assert`",
        )
    else:
        return False
    return True


def resolve_fact(scope: Scope, node: tree.Dotted) -> Typed | None:
    head, _, name = node.name.partition(".")
    if head != "model" or name not in FACTS:
        hints, meant = meant_words(name, FACTS, "fact", "model.")
        if nearest(head, ("model",)) is None:
            hints, meant = (
                ("only `model.` has facts, the same for all layers; layers are chosen by number or by score",),
                None,
            )
        listed = "facts: " + ", ".join(f"`model.{fact}`" for fact in sorted(FACTS))
        scope.error(
            "LB113",
            f"no fact `{node.name}`",
            node.span,
            help=(*hints, listed),
            fix=replace(node.span, f"model.{meant}") if meant and (head == "model" or slip(head, ("model",))) else None,
        )
        return None
    kind, unit = FACTS[name]
    return Typed(Fact.model_construct(name=name, at=at(node)), kind, unit)


def resolve_value(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    if node.args is None and name in ("true", "false"):
        return Typed(Boolean.model_construct(value=name == "true", at=at(node)), "boolean")
    if place == "where":
        if is_layer_score(name):
            score = resolve_score(scope, node)
            return None if score is None else Typed(score, "number", metrics()[score.metric].unit, Phase.MEASURED)
        if not report_model_value(scope, node):
            unknown_value(scope, node, rule=True)
        return None
    if name in metrics_of(Of.FINISHED):
        return _post(scope, node, place)
    if name in STATIC_VALUES:
        return _cost(scope, node, place)
    if name in metrics_of(Of.CHANGED) or is_layer_score(name):
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
    source = None
    if node.args is not None:
        if len(node.args) != 1 or node.args[0].key is not None:
            scope.error(
                "LB104",
                f"`{name}` takes one text of the `eval` block, or nothing",
                node.span,
                help=f'as in `{name}("builtin:wikitext")`; `{name}` alone must hold on every text',
            )
            return None
        argument = node.args[0].value
        value = constant(scope, argument)
        if value is None:
            return None
        if value.kind != "text":
            scope.error("LB106", f"expected the name of a text, not {value.shown}", argument.span, help="quote it")
            return None
        source = str(value.value)
        scope.judged_on.append((source, argument.span))
    score = PostScore.model_construct(name=name, source=source, at=at(node))
    return Typed(score, "number", metrics()[name].unit, Phase.POST)


def _cost(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    static = STATIC_VALUES[name]
    if not static.takes_context:
        if node.args is not None:
            scope.error(
                "LB104",
                f"`{name}` takes no arguments",
                node.span,
                help=f"it is of the whole model: write `{name}`",
            )
            return None
        return Typed(CostOf.model_construct(name=name, at=at(node)), "number", static.unit, cost=True)
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
    return Typed(CostOf.model_construct(name=name, ctx=context, at=at(node)), "number", static.unit, cost=True)


def _joint(scope: Scope, node: tree.Call, place: Place) -> Typed | None:
    name = node.name.name
    joint = metrics_of(Of.CHANGED)
    if name not in joint:
        instead = scope.metric if scope.metric in joint else next(iter(joint))
        scope.error(
            "LB109",
            f"`{name}` is a layer's value, and the model's is wanted",
            node.span,
            help=f"the whole changed model has `{instead}`",
        )
        return None
    if node.args is not None:
        scope.error(
            "LB109",
            f"`{name}` of the whole model takes no action",
            node.span,
            help=f"`{name}` is measured with all changes of the plan at once",
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
        joint[name].unit,
        Phase.MEASURED,
    )
