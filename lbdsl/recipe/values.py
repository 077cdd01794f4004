"""What names in expressions mean: facts of the model, scores, costs, and values of the healed model."""

from __future__ import annotations

from typing import Any, NoReturn

from lbdsl.actions import Action, actions
from lbdsl.core.registry import nearest
from lbdsl.core.units import Unit
from lbdsl.layer.cost import STATIC_VALUES
from lbdsl.metrics import Metric, Of, metrics, metrics_of
from lbdsl.recipe.calls import LATER_ACTIONS, resolve_action
from lbdsl.recipe.constants import constant, described, warn_decimal, whole
from lbdsl.recipe.schema import FACTS, Boolean, CostOf, Fact, Meaning, PostScore, Score, String
from lbdsl.recipe.scope import Scope, meant_words, rewrite
from lbdsl.recipe.types import Place
from lbdsl.syntax import tree
from lbdsl.syntax.wishes import slip, wish

LATER_METRICS = frozenset({"task"})
_LAYER_NUMBERS = frozenset({"layer", "layers", "index", "layer_idx", "layer_index", "depth"})


def resolve_fact(scope: Scope, node: tree.Dotted) -> Fact:
    head, _, name = node.name.partition(".")
    if head == "model" and name in FACTS:
        return Fact(node.span, name)
    hints, meant = meant_words(name, FACTS, "fact", "model.")
    if nearest(head, ("model",)) is None:
        hints = ("only `model.` has facts, the same for all layers; layers are chosen by number or by score",)
        meant = None
    listed = "facts: " + ", ".join(f"`model.{fact}`" for fact in sorted(FACTS))
    scope.fail(
        "LB113",
        f"no fact `{node.name}`",
        node.span,
        help=(*hints, listed),
        fix=rewrite(node.span, f"model.{meant}") if meant and (head == "model" or slip(head, ("model",))) else None,
    )


def resolve_value(scope: Scope, node: tree.Call, place: Place) -> Meaning:
    """A name or call in an expression: in a rule the score of a layer, elsewhere a value of the whole model."""
    name = node.name.name
    if node.args is None and name in ("true", "false"):
        return Boolean(node.span, name == "true")
    if place == "where":
        return resolve_by(scope, node)
    if name in metrics_of(Of.FINISHED):
        return _post(scope, node, place)
    if name in STATIC_VALUES:
        return _cost(scope, node)
    if name in metrics_of(Of.CHANGED) or _is_layer_score(name):
        return _joint(scope, node, place)
    _unknown_value(scope, node, rule=False)


def resolve_by(scope: Scope, call: tree.Call) -> Score:
    """The score of a layer, as after `by`."""
    name = call.name.name
    if _is_layer_score(name):
        return resolve_score(scope, call)
    if name in metrics_of(Of.FINISHED):
        message = f"`{name}` is known only after healing"
        scope.fail("LB108", message, call.span, help="a rule decides before healing; move it to `assert`")
    if name in STATIC_VALUES:
        message = f"`{name}` is a value of the whole model, and a layer's is wanted"
        scope.fail("LB109", message, call.span, help=f"use `{name}` in `until`, `requires` or `assert`")
    if name in metrics_of(Of.CHANGED):
        message = f"`{name}` is a value of the whole changed model, and a layer's is wanted"
        scope.fail("LB109", message, call.span, help=f"use `{name}` in `requires` or `assert`")
    _unknown_value(scope, call, rule=True)


def resolve_score(scope: Scope, call: tree.Call) -> Score:
    """The score of one layer that `where` and `by` ask for."""
    name = call.name.name
    if name == "sensitivity":
        if call.args is not None:
            message = "`sensitivity` takes no arguments"
            scope.fail("LB104", message, call.span, help="name the metric instead: `nll(ACTION)` or `kl(ACTION)`")
        # The setting may be `influence(block)`.
        metric, _, part = scope.metric.partition("(")
        action = _without_arguments("drop") if metrics()[metric].takes_action else None
        return Score(call.span, name, metric, action, False, part.removesuffix(")") or None)
    cls = metrics()[name]
    if not cls.takes_action:
        return Score(call.span, name, name, None, False, _part(scope, call, cls))
    return Score(call.span, name, name, _scored_action(scope, call, cls), False, None)


def _without_arguments(kind: str) -> Action:
    return actions()[kind].model_validate({})


def _scored_action(scope: Scope, call: tree.Call, cls: type[Metric]) -> Action:
    """The action that `kl(swa(window=256))` measures; of `kl` alone, the metric's own."""
    name = call.name.name
    if not call.args:
        return _without_arguments(cls.default_action)
    inner = _argument(call)
    if not isinstance(inner, tree.Call):
        scope.fail("LB104", f"`{name}` takes one action", call.span, help=f"as in `{name}(drop)`")
    action = resolve_action(scope, inner)
    if action.keeps:
        message = f"`{inner.name.name}` changes nothing, so `{name}` of it is always 0"
        hint = f"name an action that changes the layer, as in `{name}({cls.default_action})`"
        scope.fail("LB104", message, inner.span, help=hint)
    return action


def _part(scope: Scope, call: tree.Call, cls: type[Metric]) -> str | None:
    """The part of the layer in `influence`, `influence(attention)` or `influence(block)`; the first one goes without
    saying."""
    name = call.name.name
    parts: tuple[str, ...] = getattr(cls, "parts", ())
    if not call.args:
        return None
    inner = _argument(call)
    if isinstance(inner, tree.Call) and inner.args is None:
        word = inner.name.name
        if word in parts:
            return None if word == parts[0] else word
        if parts and word not in actions():
            scope.unknown(
                "LB105", f"`{name}` is not about `{word}`", word, inner.span, parts, "parts of a layer", wishes="part"
            )
    forms = " or ".join(f"`{name}({part})`" for part in parts)
    message = f"`{name}` takes no action"
    scope.fail(
        "LB104", message, call.span, help=f"write `{name}`" + (f"; the part of the layer is {forms}" if parts else "")
    )


def _post(scope: Scope, node: tree.Call, place: Place) -> PostScore:
    name = node.name.name
    if place not in ("assert", "minimize", "maximize", "subject to"):
        message = f"`{name}` is known only after healing"
        scope.fail("LB108", message, node.span, help=f"`{place}` decides before healing; move it to `assert`")
    if node.args is None:
        return PostScore(node.span, name, None)
    argument = _argument(node)
    if argument is None:
        message = f"`{name}` takes one text of the `eval` block, or nothing"
        scope.fail(
            "LB104", message, node.span, help=f'as in `{name}("builtin:wikitext")`; `{name}` alone must hold on every text'
        )
    value = constant(scope, argument)
    if not isinstance(value, String):
        scope.fail("LB106", f"expected the name of a text, not {described(value)}", argument.span, help="quote it")
    scope.judged_on.append((value.value, argument.span))
    return PostScore(node.span, name, value.value)


def _cost(scope: Scope, node: tree.Call) -> CostOf:
    name = node.name.name
    if not STATIC_VALUES[name].takes_context:
        if node.args is not None:
            scope.fail("LB104", f"`{name}` takes no arguments", node.span, help=f"it is of the whole model: write `{name}`")
        return CostOf(node.span, name, None)
    argument = _argument(node)
    if argument is None:
        scope.fail("LB104", f"`{name}` needs a context", node.span, help=f"as in `{name}(32Ki)`, in tokens")
    context = whole(scope, constant(scope, argument), (Unit.TOKENS,), "a context")
    if context < 1:
        scope.fail("LB105", f"a context of {context} tokens", argument.span, help="a context is at least 1 token")
    warn_decimal(scope, argument)
    return CostOf(node.span, name, context)


def _joint(scope: Scope, node: tree.Call, place: Place) -> Score:
    name = node.name.name
    joint = metrics_of(Of.CHANGED)
    if name not in joint:
        instead = scope.metric if scope.metric in joint else next(iter(joint))
        message = f"`{name}` is a layer's value, and the model's is wanted"
        scope.fail("LB109", message, node.span, help=f"the whole changed model has `{instead}`")
    if node.args is not None:
        message = f"`{name}` of the whole model takes no action"
        scope.fail("LB109", message, node.span, help=f"`{name}` is measured with all changes of the plan at once")
    if place == "until":
        scope.fail(
            "LB315",
            f"`until` cannot use `{name}` of the whole model",
            node.span,
            help=("give a cost, as in `until kv(32Ki) <= 50%`", f"or gate with `assert {name} < ...`"),
        )
    return Score(node.span, name, name, None, True, None)


def _argument(call: tree.Call) -> tree.Expr | None:
    """The one argument of a call; None where it has another number of them, or a named one."""
    return call.args[0].value if call.args and len(call.args) == 1 and call.args[0].key is None else None


def _is_layer_score(name: str) -> bool:
    return name == "sensitivity" or name in metrics_of(Of.LAYER)


def _unknown_value(scope: Scope, call: tree.Call, rule: bool) -> NoReturn:
    """Report a name that has no value here, with what may have been meant."""
    name, span = call.name.name, call.name.span
    if name in actions() or name in LATER_ACTIONS:
        text = actions()[name].example if name in actions() else name
        help = [f"a score under an action is `nll({text})` or `kl({text})`"]
        if name in FACTS:
            help.append(f"the model's own is `model.{name}`")
        scope.fail("LB128", f"`{name}` is an action, not a value", span, help=tuple(help))
    if name in LATER_METRICS:
        scope.fail("LB125", f"the metric `{name}` is not in this version", span)
    message = f"no metric `{name}`"
    if rule and name in _LAYER_NUMBERS:
        chosen = "layers are chosen by number with `layers`, as in `layers 0-3` or `layers last 4 where ...`"
        scope.fail("LB102", message, span, help=chosen)
    known: list[Any] = ["sensitivity", *metrics_of(Of.LAYER)]
    what, wishes = "metrics", "score"
    if not rule:
        known = [*metrics_of(Of.CHANGED), *STATIC_VALUES, *metrics_of(Of.FINISHED)]
        what, wishes = "values of the model", "value"
    if name in FACTS:
        said = f"`{name}` is a fact of the source model: `model.{name}`"
        if rule:
            same = f"`{name}` is the same for every layer of a model, so it cannot rank or choose layers"
            said = wish(name, "score") or same
        scope.fail("LB102", message, span, help=(said, f"{what}: " + ", ".join(f"`{kind}`" for kind in sorted(known))))
    scope.unknown("LB102", message, name, span, known, what, wishes=wishes)
