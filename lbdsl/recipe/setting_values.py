"""How the values of settings are read: one function for each kind of value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from lbdsl.core.diagnostic import Label
from lbdsl.core.registry import nearest
from lbdsl.core.span import Span
from lbdsl.core.units import Unit
from lbdsl.metrics import Of, metrics_of
from lbdsl.recipe.calls import resolve_score
from lbdsl.recipe.constants import constant, warn_decimal, whole
from lbdsl.recipe.schema import FullWeights, Lora, Node
from lbdsl.recipe.schema_blocks import BUILTIN_TEXTS, JUDGING_ONLY
from lbdsl.recipe.scope import Constant, Scope, at, replace
from lbdsl.syntax import tree
from lbdsl.syntax.wishes import slip

Read = Callable[[Scope, tree.Setting], Mapping[str, Any] | None]
"""A setting to fields of the block's schema, or None with an error."""

EVAL_METRICS = ("perplexity", "kl", "agreement")
METHODS = ("lora", "full")
LOSSES = ("kl", "hidden")


def tokens(field: str, power_of_two: bool = False) -> Read:
    def read(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
        value = constant(scope, setting.value)
        number = None if value is None else whole(scope, value, (Unit.TOKENS,), f"`{field}`")
        if power_of_two and value is not None:
            warn_decimal(scope, value)
        return None if number is None else {field: number}

    return read


def integer(field: str) -> Read:
    def read(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
        value = constant(scope, setting.value)
        number = None if value is None else whole(scope, value, (), f"`{field}`")
        return None if number is None else {field: number}

    return read


def _real(scope: Scope, node: tree.Expr, what: str) -> float | None:
    value = constant(scope, node)
    if value is None:
        return None
    if value.kind != "number" or value.unit not in (Unit.NONE, Unit.RATIO):
        scope.error(
            "LB106" if value.kind != "number" else "LB107", f"{what} is a plain number, not {value.shown}", node.span
        )
        return None
    assert isinstance(value.value, int | float)
    return float(value.value)


def rate(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    number = _real(scope, setting.value, "`lr`")
    return None if number is None else {"lr": number}


def data_name(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    value = constant(scope, setting.value)
    if value is None:
        return None
    if value.value in JUDGING_ONLY:
        others = " or ".join(f"`{name}`" for name in BUILTIN_TEXTS if name not in JUDGING_ONLY)
        scope.error(
            "LB150",
            f"`{value.value}` is for judging only",
            setting.value.span,
            help=(f"name it in `eval`; measure and heal on {others}, a file or a hub data set",),
        )
        return None
    name = _source(scope, value, setting.value)
    return None if name is None else {"data": name}


def data_names(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    """One source, or a list of several."""
    value = constant(scope, setting.value)
    if value is None:
        return None
    if not isinstance(value.value, tuple):
        name = _source(scope, value, setting.value)
        return None if name is None else {"data": (name,)}
    if not value.value:
        scope.error("LB106", "an empty list of sources", setting.value.span, help="name at least one text")
        return None
    nodes = setting.value.items if isinstance(setting.value, tree.Items) else (setting.value,) * len(value.value)
    names = [_source(scope, item, node) for item, node in zip(value.value, nodes, strict=True)]
    return None if None in names else {"data": tuple(dict.fromkeys(names))}


def _source(scope: Scope, value: Constant, node: tree.Expr) -> str | None:
    """The name of one text."""
    if value.kind != "text" or not value.value:
        scope.error(
            "LB106",
            f"`data` is the name of a text, not {value.shown}",
            node.span,
            help='as in `data = "builtin:pydoc"` or `data = "file.txt"`',
        )
        return None
    name = str(value.value)
    if name.startswith("builtin:") and name not in BUILTIN_TEXTS:
        meant = slip(name, BUILTIN_TEXTS) if isinstance(node, tree.String) else None
        scope.error(
            "LB115",
            f"there is no built-in text `{name}`",
            node.span,
            help=f"did you mean `{nearest(name, BUILTIN_TEXTS) or BUILTIN_TEXTS[0]}`?",
            fix=replace(node.span, f'"{meant}"') if meant else None,
        )
        return None
    return name


def _name(scope: Scope, node: tree.Expr, choices: Mapping[str, Any] | tuple[str, ...], what: str) -> str | None:
    """A bare name out of a few."""
    if not isinstance(node, tree.Call):
        scope.error("LB115", f"{what} is wanted here", node.span, help="one of " + ", ".join(f"`{c}`" for c in choices))
        return None
    if node.name.name not in choices:
        scope.unknown(
            "LB115",
            f"no {what.removeprefix('a ')} `{node.name.name}`",
            node.name.name,
            node.name.span,
            choices,
            "known",
            wishes="choice",
        )
        return None
    return node.name.name


def _plain(scope: Scope, node: tree.Expr, name: str | None) -> bool:
    if name is not None and isinstance(node, tree.Call) and node.args is not None:
        scope.error("LB104", f"`{name}` takes no arguments here", node.span)
        return False
    return name is not None


def metric(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    known = metrics_of(Of.LAYER)
    name = _name(scope, setting.value, known, "a metric")
    node = setting.value
    if name is not None and isinstance(node, tree.Call) and node.args and not known[name].takes_action:
        score = resolve_score(scope, node)
        return None if score is None else {"metric": score.text}
    return {"metric": name} if _plain(scope, setting.value, name) else None


def eval_metrics(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    nodes = setting.value.items if isinstance(setting.value, tree.Items) else (setting.value,)
    names = [_name(scope, node, EVAL_METRICS, "a metric of the finished model") for node in nodes]
    if not all([_plain(scope, node, name) for node, name in zip(nodes, names, strict=True)]):
        return None
    return {"metrics": tuple(dict.fromkeys(names))}


def method(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    node = setting.value
    name = _name(scope, node, METHODS, "a method")
    if name is None or not isinstance(node, tree.Call):
        return None
    if name == "full":
        return {"method": FullWeights(at=at(node))} if _plain(scope, node, name) else None
    values: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    good = True
    for position, arg in enumerate(node.args or ()):
        key = arg.key.name if arg.key else ("rank", "alpha")[position] if position < 2 else ""
        if key not in ("rank", "alpha"):
            scope.unknown(
                "LB103",
                f"`lora` has no parameter `{key}`" if key else "`lora` takes two arguments",
                key,
                arg.key.span if arg.key else arg.span,
                ("rank", "alpha"),
                "parameters",
                wishes="parameter",
            )
            good = False
            continue
        if key in spans:
            scope.error("LB104", f"`{key}` is given twice", arg.span, labels=(Label(spans[key], "first here"),))
            good = False
            continue
        spans[key] = arg.value.span
        if key == "rank":
            value = constant(scope, arg.value)
            values[key] = None if value is None else whole(scope, value, (), "`rank`")
        else:
            values[key] = _real(scope, arg.value, "`alpha`")
        good = good and values[key] is not None
    if not good:
        return None
    lora = checked(scope, Lora, values | {"at": at(node)}, spans, node.span)
    return None if lora is None else {"method": lora}


def loss(scope: Scope, setting: tree.Setting) -> Mapping[str, Any] | None:
    """`kl`, `kl + 0.1 * hidden`, `0.5 * kl + hidden`: a weighted sum of the losses, each at most once."""
    node = setting.value
    terms: tuple[tree.Expr, ...] = (node,)
    if isinstance(node, tree.Arithmetic) and "+" in node.ops:
        terms = node.operands
    if isinstance(node, tree.Arithmetic) and "-" in node.ops:
        scope.error("LB115", "a loss is a sum", node.span, help="as in `kl + 0.1 * hidden`")
        return None
    weights: dict[str, float] = {}
    for term in terms:
        found = _term(scope, term)
        if found is None:
            return None
        name, weight = found
        if name in weights:
            scope.error("LB115", f"`{name}` stands twice in the loss", term.span)
            return None
        if weight < 0:
            scope.error("LB129", f"the weight of `{name}` is negative", term.span)
            return None
        weights[name] = weight
    if not any(weights.values()):
        scope.error("LB129", "all weights of the loss are zero", node.span)
        return None
    return {"kl_weight": weights.get("kl", 0.0), "hidden_weight": weights.get("hidden", 0.0)}


def _term(scope: Scope, node: tree.Expr) -> tuple[str, float] | None:
    factor, loss = 1.0, node
    if isinstance(node, tree.Arithmetic) and node.ops == ("*",):
        left, right = node.operands
        first, second = (left, right) if isinstance(right, tree.Call) else (right, left)
        weight = _real(scope, first, "a weight")
        if weight is None:
            return None
        factor, loss = weight, second
    name = _name(scope, loss, LOSSES, "a loss")
    return (name, factor) if name is not None and _plain(scope, loss, name) else None


def checked(scope: Scope, schema: type[Node], values: dict[str, Any], spans: Mapping[str, Span], whole_span: Span) -> Any:
    """The schema's value; its bounds become errors at the setting."""
    try:
        return schema(**values)
    except ValidationError as problem:
        for item in problem.errors():
            field = str(item["loc"][0])
            context = item.get("ctx", {})
            bound = next(
                (
                    f"{words} {context[key]:g}"
                    for key, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
                    if key in context
                ),
                None,
            )
            message = f"`{field}` must be {bound}" if bound else f"`{field}`: {item['msg'].lower()}"
            scope.error("LB129", message, spans.get(field, whole_span))
        return None
