"""Calls of actions, `swa(window=512, sinks=4)`, and what Pydantic says of their arguments in the language's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from lbdsl.actions import Action, actions
from lbdsl.actions.base import argument_text
from lbdsl.core.diagnostic import Label
from lbdsl.core.span import Span
from lbdsl.core.units import Share, Unit
from lbdsl.metrics import metrics
from lbdsl.recipe.constants import constant, described, warn_decimal, whole
from lbdsl.recipe.schema import Items, Number
from lbdsl.recipe.scope import Scope, Unresolved, meant_words, rewrite
from lbdsl.syntax import tree
from lbdsl.syntax.wishes import wish

LATER_ACTIONS = frozenset({"linear"})


def resolve_action(scope: Scope, call: tree.Call) -> Action:
    """The action of a call, its arguments checked; errors stand at the argument."""
    cls = actions().get(call.name.name)
    if cls is None:
        _unknown_action(scope, call)
    spans: dict[str, Span] = {}
    values: dict[str, Any] = {}
    good = True
    for position, arg in enumerate(call.args or ()):
        try:
            name = _parameter(scope, cls, call, arg, position)
            if name in spans:
                scope.fail("LB104", f"`{name}` is given twice", arg.span, labels=(Label(spans[name], "first here"),))
            spans[name] = arg.value.span
            values[name] = _argument(scope, cls, name, arg.value)
        except Unresolved:
            good = False
    try:
        action = cls(**values)
    except ValidationError as problem:
        for item in problem.errors():
            # What an argument with an error would have given is not missing.
            if good or item["type"] != "missing":
                _explain(scope, cls, call, spans, item)
        raise Unresolved from None
    if not good:
        raise Unresolved
    return action


def signature(cls: type[Action]) -> str:
    """`swa(window, sinks=0)`."""
    parts = []
    for name in cls.parameters():
        default = cls.model_fields[name].get_default()
        parts.append(name if default is PydanticUndefined else f"{name}={argument_text(default)}")
    return f"{cls.kind_name()}({', '.join(parts)})" if parts else cls.kind_name()


def _unknown_action(scope: Scope, call: tree.Call) -> NoReturn:
    name, span = call.name.name, call.name.span
    listed = "actions: " + ", ".join(f"`{known}`" for known in actions())
    if name in LATER_ACTIONS:
        scope.fail("LB125", f"the action `{name}` is not in this version", span, help=listed)
    if name == "sensitivity" or name in metrics():
        scope.fail("LB101", f"`{name}` is a metric, not an action", span, help=listed)
    scope.unknown("LB101", f"no action `{name}`", name, span, actions(), "actions", wishes="action")


def _parameter(scope: Scope, cls: type[Action], call: tree.Call, arg: tree.Arg, position: int) -> str:
    """The parameter that an argument is for."""
    names, kind, form = cls.parameters(), cls.kind_name(), signature(cls)
    if arg.key is not None:
        if arg.key.name in names:
            return arg.key.name
        hints, meant = meant_words(arg.key.name, names, "parameter")
        message, fix = f"`{kind}` has no parameter `{arg.key.name}`", rewrite(arg.key.span, meant) if meant else None
        scope.fail("LB103", message, arg.key.span, help=(*hints, f"its form is `{form}`"), fix=fix)
    if any(other.key is not None for other in (call.args or ())[:position]):
        message = "an argument without a name stands after one with a name"
        scope.fail("LB104", message, arg.span, help=f"the form is `{form}`")
    if position >= len(names):
        count = {0: "no arguments", 1: "one argument"}.get(len(names), f"at most {len(names)} arguments")
        scope.fail("LB104", f"`{kind}` takes {count}", arg.span, help=f"its form is `{form}`")
    return names[position]


def _argument(scope: Scope, cls: type[Action], name: str, node: tree.Expr) -> Any:
    """The Python value of an argument. Units are checked here, types and bounds by the action's own model."""
    value = constant(scope, node, words=True)
    extra = cls.model_fields[name].json_schema_extra
    if isinstance(extra, dict) and "unit" in extra:
        unit = Unit(str(extra["unit"]))
        if unit is Unit.TOKENS:
            warn_decimal(scope, node)
        return whole(scope, value, (unit,), f"`{name}`")
    if isinstance(value, Items):
        scope.fail("LB106", f"`{name}` takes one value, not a list", node.span)
    if isinstance(value, Number):
        if value.unit not in (Unit.NONE, Unit.RATIO):
            scope.fail("LB107", f"`{name}` is a plain number, not {described(value)}", node.span)
        return Share(value.value) if value.unit is Unit.RATIO else value.value
    return value.value


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}

_TYPES = {
    "amount": "a whole number or a share, as in `75%`",
    "bool": "`true` or `false`",
    "float": "a number",
    "int": "a whole number",
    "string": "text",
}


def refusal(item: Mapping[str, Any]) -> tuple[str, str]:
    """The code and the words of one of Pydantic's errors: LB106 for a value of another type, else LB105."""
    name, kind, context = str(item["loc"][0]) if item["loc"] else "", item["type"], item.get("ctx", {})
    bound = next((f"{words} {context[key]:.12g}" for key, words in _BOUNDS.items() if key in context), None)
    if bound is not None:
        return "LB105", f"`{name}` must be {bound}"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return "LB106", f"`{name}` must be {_TYPES.get(kind.split('_')[0], 'of another type')}"
    return "LB105", f"`{name}`: {item['msg'].lower()}" if name else item["msg"].lower()


def _explain(scope: Scope, cls: type[Action], call: tree.Call, spans: Mapping[str, Span], item: Mapping[str, Any]) -> None:
    """Report one of Pydantic's errors at the argument it is about."""
    name = str(item["loc"][0]) if item["loc"] else ""
    span = spans.get(name, call.span)
    kind, form = cls.kind_name(), f"its form is `{signature(cls)}`"
    if item["type"] == "missing":
        scope.error("LB104", f"`{kind}` needs `{name}`", call.span, help=form)
        return
    if item["type"] != "literal_error":
        code, message = refusal(item)
        scope.error(code, message, span, help=form)
        return
    expected = str(item["ctx"]["expected"]).replace("'", "`")
    if isinstance(item["input"], str) and "`" not in expected:
        scope.error("LB106", f"`{name}` must be a whole number", span, help=f"it can be {expected}")
        return
    said = wish(str(item["input"]), "parameter")
    message = f"`{name}` of `{kind}` cannot be `{item['input']}`"
    scope.error("LB105", message, span, help=(*((said,) if said else ()), f"it can be {expected}"))
