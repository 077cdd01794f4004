"""Calls: `swa(window=512, sinks=4)` to an action, `kl(swa(window=256))` to a score."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from lbdsl.actions import Action, actions
from lbdsl.actions.base import argument_text
from lbdsl.core.diagnostic import Label
from lbdsl.core.span import Span
from lbdsl.core.units import Share, Unit
from lbdsl.layer.cost import STATIC_VALUES
from lbdsl.metrics import Metric, Of, metrics, metrics_of
from lbdsl.recipe.constants import constant, warn_decimal, whole
from lbdsl.recipe.schema import Score
from lbdsl.recipe.schema_expr import FACTS
from lbdsl.recipe.scope import Scope, at, meant_words, replace
from lbdsl.syntax import tree
from lbdsl.syntax.wishes import wish

LATER_ACTIONS = frozenset({"linear"})
LATER_METRICS = frozenset({"task"})
_LAYER_NUMBERS = frozenset({"layer", "layers", "index", "layer_idx", "layer_index", "depth"})


def resolve_action(scope: Scope, call: tree.Call) -> Action | None:
    """The action of a call, its arguments checked; None with errors that stand at the argument."""
    cls = actions().get(call.name.name)
    if cls is None:
        _unknown_action(scope, call)
        return None
    spans: dict[str, Span] = {}
    values: dict[str, Any] = {}
    good = True
    for position, arg in enumerate(call.args or ()):
        name = _parameter(scope, cls, call, arg, position)
        if name is None:
            good = False
        elif name in spans:
            scope.error("LB104", f"`{name}` is given twice", arg.span, labels=(Label(spans[name], "first here"),))
            good = False
        else:
            spans[name] = arg.value.span
            value = _argument(scope, cls, name, arg.value)
            if value is None:
                good = False
            else:
                values[name] = value
    try:
        action = cls(**values)
    except ValidationError as problem:
        for item in problem.errors():
            # What an argument with an error would have given is not missing.
            if good or item["type"] != "missing":
                _explain(scope, cls, call, spans, item)
        return None
    return action if good else None


def resolve_score(scope: Scope, call: tree.Call) -> Score | None:
    """The score of one layer that `where` and `by` ask for."""
    name = call.name.name
    if name == "sensitivity":
        if call.args is not None:
            scope.error(
                "LB104",
                "`sensitivity` takes no arguments",
                call.span,
                help="name the metric instead: `nll(ACTION)` or `kl(ACTION)`",
            )
            return None
        metric, part = split_metric(scope.metric)
        action = _bare("drop") if metrics()[metric].takes_action else None
        return Score.model_construct(name=name, metric=metric, action=action, part=part, at=at(call))
    cls = metrics()[name]
    if not cls.takes_action:
        return _score_of_part(scope, call, cls)
    if not call.args:
        return Score.model_construct(name=name, metric=name, action=_bare(cls.default_action), at=at(call))
    inner = call.args[0].value
    if len(call.args) > 1 or call.args[0].key is not None or not isinstance(inner, tree.Call):
        scope.error("LB104", f"`{name}` takes one action", call.span, help=f"as in `{name}(drop)`")
        return None
    action = resolve_action(scope, inner)
    if action is not None and action.keeps:
        scope.error(
            "LB104",
            f"`{inner.name.name}` changes nothing, so `{name}` of it is always 0",
            inner.span,
            help=f"name an action that changes the layer, as in `{name}({cls.default_action})`",
        )
        return None
    return None if action is None else Score.model_construct(name=name, metric=name, action=action, at=at(call))


def _score_of_part(scope: Scope, call: tree.Call, cls: type[Metric]) -> Score | None:
    """`influence`, `influence(attention)` or `influence(block)`."""
    name = call.name.name
    parts: tuple[str, ...] = getattr(cls, "parts", ())
    if not call.args:
        return Score.model_construct(name=name, metric=name, action=None, at=at(call))
    inner = call.args[0].value
    if len(call.args) == 1 and call.args[0].key is None and isinstance(inner, tree.Call) and inner.args is None:
        word = inner.name.name
        if word in parts:
            part = None if word == parts[0] else word
            return Score.model_construct(name=name, metric=name, action=None, part=part, at=at(call))
        if parts and word not in actions():
            scope.unknown(
                "LB105", f"`{name}` is not about `{word}`", word, inner.span, parts, "parts of a layer", wishes="part"
            )
            return None
    forms = " or ".join(f"`{name}({part})`" for part in parts)
    scope.error(
        "LB104",
        f"`{name}` takes no action",
        call.span,
        help=f"write `{name}`" + (f"; the part of the layer is {forms}" if parts else ""),
    )
    return None


def split_metric(text: str) -> tuple[str, Any]:
    """The metric and the part of `measure { metric = influence(block) }`: `influence` and `block`, else None."""
    name, _, rest = text.partition("(")
    return name, rest.removesuffix(")") or None


def _bare(kind: str) -> Action:
    """An action that needs no arguments."""
    return actions()[kind].model_validate({})


def is_layer_score(name: str) -> bool:
    """Whether a name is that of a layer's score."""
    return name == "sensitivity" or name in metrics_of(Of.LAYER)


def unknown_value(scope: Scope, call: tree.Call, rule: bool) -> None:
    """Report a name that has no value here, with what may have been meant."""
    name, span = call.name.name, call.name.span
    if name in actions() or name in LATER_ACTIONS:
        call_text = actions()[name].example if name in actions() else name
        fact = (f"the model's own is `model.{name}`",) if name in FACTS else ()
        scope.error(
            "LB128",
            f"`{name}` is an action, not a value",
            span,
            help=(f"a score under an action is `nll({call_text})` or `kl({call_text})`", *fact),
        )
    elif name in LATER_METRICS:
        scope.error("LB125", f"the metric `{name}` is not in this version", span)
    else:
        known = ["sensitivity", *metrics_of(Of.LAYER)]
        if rule and name in _LAYER_NUMBERS:
            scope.error(
                "LB102",
                f"no metric `{name}`",
                span,
                help="layers are chosen by number with `layers`, as in `layers 0-3` or `layers last 4 where ...`",
            )
            return
        if not rule:
            known = [*metrics_of(Of.CHANGED), *STATIC_VALUES, *metrics_of(Of.FINISHED)]
        if name in FACTS:
            said = (
                "the same for every layer of a model, so it cannot rank or choose layers"
                if rule
                else f"a fact of the source model: `model.{name}`"
            )
            listed = ("metrics: " if rule else "values of the model: ") + ", ".join(f"`{kind}`" for kind in sorted(known))
            missing = wish(name, "score") if rule else None
            scope.error("LB102", f"no metric `{name}`", span, help=(missing or f"`{name}` is {said}", listed))
            return
        what, wishes = ("metrics", "score") if rule else ("values of the model", "value")
        scope.unknown("LB102", f"no metric `{name}`", name, span, known, what, wishes=wishes)


def signature(cls: type[Action]) -> str:
    """`swa(window, sinks=0)`."""
    parts = []
    for name in cls.parameters():
        default = cls.model_fields[name].get_default()
        parts.append(name if default is PydanticUndefined else f"{name}={argument_text(default)}")
    return f"{cls.kind_name()}({', '.join(parts)})" if parts else cls.kind_name()


def _unknown_action(scope: Scope, call: tree.Call) -> None:
    name = call.name.name
    if name in LATER_ACTIONS:
        scope.error(
            "LB125",
            f"the action `{name}` is not in this version",
            call.name.span,
            help="actions: " + ", ".join(f"`{known}`" for known in actions()),
        )
    elif name == "sensitivity" or name in metrics():
        scope.error(
            "LB101",
            f"`{name}` is a metric, not an action",
            call.name.span,
            help="actions: " + ", ".join(f"`{known}`" for known in actions()),
        )
    else:
        scope.unknown("LB101", f"no action `{name}`", name, call.name.span, actions(), "actions", wishes="action")


def _parameter(scope: Scope, cls: type[Action], call: tree.Call, arg: tree.Arg, position: int) -> str | None:
    names = cls.parameters()
    kind = cls.kind_name()
    if arg.key is not None:
        if arg.key.name in names:
            return arg.key.name
        hints, meant = meant_words(arg.key.name, names, "parameter")
        scope.error(
            "LB103",
            f"`{kind}` has no parameter `{arg.key.name}`",
            arg.key.span,
            help=(*hints, f"its form is `{signature(cls)}`"),
            fix=replace(arg.key.span, meant) if meant else None,
        )
        return None
    if any(other.key is not None for other in (call.args or ())[:position]):
        scope.error(
            "LB104",
            "an argument without a name stands after one with a name",
            arg.span,
            help=f"the form is `{signature(cls)}`",
        )
        return None
    if position >= len(names):
        scope.error("LB104", f"`{kind}` takes {_count(len(names))}", arg.span, help=f"its form is `{signature(cls)}`")
        return None
    return names[position]


def _count(number: int) -> str:
    return "no arguments" if number == 0 else "one argument" if number == 1 else f"at most {number} arguments"


def _argument(scope: Scope, cls: type[Action], name: str, node: tree.Expr) -> Any:
    """The Python value of an argument. Units are checked here, types and bounds by the action's own model."""
    value = constant(scope, node, words=True)
    if value is None:
        return None
    info = cls.model_fields[name]
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    unit = Unit(str(extra["unit"])) if "unit" in extra else None
    if unit is not None:
        if unit is Unit.TOKENS:
            warn_decimal(scope, value)
        return whole(scope, value, (unit,), f"`{name}`")
    if value.kind == "number" and value.unit not in (Unit.NONE, Unit.RATIO):
        scope.error("LB107", f"`{name}` is a plain number, not {value.shown}", node.span)
        return None
    if value.kind == "list":
        scope.error("LB106", f"`{name}` takes one value, not a list", node.span)
        return None
    return Share(value.value) if value.unit is Unit.RATIO else value.value  # type: ignore[arg-type]


def _explain(scope: Scope, cls: type[Action], call: tree.Call, spans: dict[str, Span], item: Any) -> None:
    """One of pydantic's errors, said in the language's words at the argument it is about."""
    name = str(item["loc"][0]) if item["loc"] else ""
    span = spans.get(name, call.span)
    form = f"its form is `{signature(cls)}`"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "missing":
        scope.error("LB104", f"`{cls.kind_name()}` needs `{name}`", call.span, help=form)
    elif kind == "literal_error":
        expected = str(context.get("expected", "")).replace("'", "`")
        if isinstance(item["input"], str) and "`" not in expected:
            scope.error("LB106", f"`{name}` must be a whole number", span, help=f"it can be {expected}")
            return
        said = wish(str(item["input"]), "parameter")
        scope.error(
            "LB105",
            f"`{name}` of `{cls.kind_name()}` cannot be `{item['input']}`",
            span,
            help=(*((said,) if said else ()), f"it can be {expected}"),
        )
    elif kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        scope.error("LB105", f"`{name}` must be {words} {context[key]}", span, help=form)
    elif kind.endswith(("_type", "_parsing", "_from_float")):
        wanted = {
            "amount": "a whole number or a share, as in `75%`",
            "bool": "`true` or `false`",
            "float": "a number",
            "int": "a whole number",
            "string": "text",
        }
        scope.error("LB106", f"`{name}` must be {wanted.get(kind.split('_')[0], 'of another type')}", span, help=form)
    else:
        scope.error("LB105", f"`{name}`: {item['msg'].lower()}" if name else item["msg"].lower(), span, help=form)


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
