"""Resolve expressions: replace names by what they refer to, and check types, units, phases and scopes.

In a rule (`where`, `by`) names are scores of one layer; in `assert`, `requires` and `until` they are values of the
whole model: facts, costs, predicted values, scores, and values of the healed model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from lbdsl.actions import Action, actions
from lbdsl.core.diagnostic import Label
from lbdsl.core.nearest import nearest
from lbdsl.core.units import Share, Unit
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.cost.profile import PREDICTED_VALUES
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import Expr, Meaning
from lbdsl.language.words import slip, ticked, wish
from lbdsl.metrics import Metric, Of, TaskMetric, metrics, metrics_of
from lbdsl.recipe.model_values import (
    cost_of,
    joint_score,
    only_argument,
    post_score,
    predicted_of,
    serves_of,
    task_named,
    too_early,
)
from lbdsl.recipe.patterns import resolve_pattern
from lbdsl.recipe.schema import (
    FACTS,
    Boolean,
    Fact,
    ResolvedAssertion,
    Score,
    terms_of,
)
from lbdsl.recipe.schema_blocks import task_name
from lbdsl.recipe.scope import Scope, Unresolved, attempt, each, meant_words, rebuilt
from lbdsl.recipe.types import Clause, check_comparison, compared, kind_name, kind_of, phase_of, refuse_unquoted, unit_of
from lbdsl.recipe.values import calculated, constant, resolve_action

_LAYER_NUMBERS = frozenset({"layer", "layers", "index", "layer_idx", "layer_index", "depth"})


def resolve_condition(scope: Scope, node: tree.Expr, place: Clause, asking: str = "") -> Expr:
    """Resolve a boolean expression; `asking` is the word that requires one, if it is not the place."""
    expr = resolve_expr(scope, node, place)
    if kind_of(expr) != "boolean":
        message = f"`{asking or place}` needs a condition, not {kind_name(expr)}"
        scope.fail("LB123", message, node.span, help=compared(expr, node))
    return expr


def resolve_expr(scope: Scope, node: tree.Expr, place: Clause) -> Expr:
    """Resolve any expression."""
    match node:
        case tree.Variable() if node.name in scope.expressions:
            return _named(scope, node, place)
        case tree.Number() | tree.String() | tree.Variable():
            return constant(scope, node)
        case tree.Pattern():
            scope.fail("LB122", "a pattern is only allowed after `matches`", node.span)
        case tree.Dotted():
            return resolve_fact(scope, node)
        case tree.Call():
            return resolve_value(scope, node, place)
        case tree.Items():
            return rebuilt(node, items=lambda item: resolve_expr(scope, item, place))
        case tree.Compare():
            return _compare(scope, node, place)
        case tree.Logic():
            return rebuilt(node, operands=lambda operand: resolve_condition(scope, operand, place, node.op))
        case tree.Not():
            return rebuilt(node, operand=lambda operand: resolve_condition(scope, operand, place, "not"))
        case tree.Minus():
            return rebuilt(node, operand=lambda operand: _number(scope, operand, place))
        case tree.Arithmetic():
            found = rebuilt(node, operands=lambda operand: _number(scope, operand, place))
            calculated(scope, node, found.operands, among=True)
            return found
        case _:
            raise AssertionError("meanings are found here, not written")


MAX_EXPANDED = 100_000
"""Parts that all uses of named expressions may stand for: a hostile recipe cannot stall the engine."""


def resolved_condition(scope: Scope, node: tree.Expr, place: Clause) -> ResolvedAssertion:
    """A condition with its text, as reports show it: with the numbers that names stand for, and for a lone `$name` that of
    its expression."""
    expr, meant = resolve_condition(scope, node, place), node
    while isinstance(meant, tree.Variable) and meant.name in scope.expressions:
        meant = scope.expressions[meant.name].node
    text = re.sub(r"\$(\w+)", partial(_written_out, scope), one_line(meant.span.text))
    return ResolvedAssertion(node.span, expr, phase_of(expr), text)


def _written_out(scope: Scope, name: re.Match[str]) -> str:
    """`$budget` as `40%`; the name itself if it stands for anything but a number."""
    value = scope.variables.get(name[1])
    if not isinstance(value, tree.Number):
        return name[0]
    if re.fullmatch(r"[0-9][\w.]*%?", value.text):
        return value.text
    return str(Share(value.value)) if value.unit is Unit.RATIO else f"{value.value:.12g}"


def _named(scope: Scope, node: tree.Variable, place: Clause) -> Expr:
    """Resolve the expression that `$name` stands for, at one place; errors in it get a label at that use."""
    scope.used.add(f"${node.name}")
    named, before = scope.expressions[node.name], len(scope.diagnostics)
    scope.expanded += named.size
    if scope.expanded > MAX_EXPANDED + named.size:
        raise Unresolved  # It was said.
    if scope.expanded > MAX_EXPANDED:
        message = f"names of expressions stand for more than {MAX_EXPANDED} parts"
        scope.fail("LB212", message, node.span, help="name less of them")
    try:
        return resolve_expr(scope, named.node, place)
    finally:
        for index in range(before, len(scope.diagnostics)):
            found = scope.diagnostics[index]
            if found.is_error and found.span is not None and found.span != node.span:
                scope.diagnostics[index] = replace(found, labels=(*found.labels, Label(node.span, "asked for here")))


def _number(scope: Scope, node: tree.Expr, place: Clause) -> Expr:
    expr = resolve_expr(scope, node, place)
    if kind_of(expr) != "number":
        scope.fail("LB106", f"expected a number, not {kind_name(expr)}", node.span)
    return expr


def _compare(scope: Scope, node: tree.Compare, place: Clause) -> tree.Compare:
    first = attempt(resolve_expr, scope, node.operands[0], place)

    def resolve_next(op: tree.Operator, operand: tree.Expr) -> Expr:
        if op.text == "matches":
            if not isinstance(operand, tree.Pattern):
                scope.fail(
                    "LB122", "`matches` needs a pattern", operand.span, help='as in `model.family matches ~"qwen.*"`'
                )
            return resolve_pattern(scope, operand)
        if first is not None and kind_of(first) == "text":
            refuse_unquoted(scope, operand)
        return resolve_expr(scope, operand, place)

    others = each(lambda pair: resolve_next(*pair), zip(node.ops, node.operands[1:], strict=True))
    if first is None:
        raise Unresolved
    found = tree.Compare(node.span, (first, *others), node.ops)
    check_comparison(scope, node, found.operands)
    return found


# Names ---------------------------------------------------------------------------------------------------------------


def resolve_fact(scope: Scope, node: tree.Dotted) -> Fact:
    head, _, name = node.name.partition(".")
    if head == "model" and name in FACTS:
        return Fact(node.span, name)
    hints, meant = meant_words(name, FACTS, "fact", "model.")
    if nearest(head, ("model",)) is None:
        hints = ("only `model.` has facts, the same for all layers; layers are chosen by number or by score",)
        meant = None
    listed = f"facts: {ticked(f'model.{fact}' for fact in sorted(FACTS))}"
    sure = meant is not None and (head == "model" or slip(head, ("model",)) is not None)
    write = f"model.{meant}" if sure else None
    scope.fail("LB113", f"no fact `{node.name}`", node.span, help=(*hints, listed), write=write)


def resolve_value(scope: Scope, node: tree.Call, place: Clause) -> Meaning:
    """A name or call in an expression: in a rule the score of a layer, elsewhere a value of the whole model."""
    name = node.name.name
    if node.args is None and name in ("true", "false"):
        return Boolean(node.span, name == "true")
    if place == "where":
        return resolve_score(scope, node)
    if name in metrics_of(Of.FINISHED):
        return post_score(scope, node, place)
    if name in STATIC_VALUES:
        return cost_of(scope, node)
    if name in PREDICTED_VALUES:
        return predicted_of(scope, node)
    if name == "serves":
        return serves_of(scope, node, place)
    if name == "sensitivity" or name in {*metrics_of(Of.CHANGED), *metrics_of(Of.LAYER)}:
        return joint_score(scope, node, place)
    _unknown_value(scope, node, rule=False)


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
    cls = metrics_of(Of.LAYER).get(name)
    if cls is None:
        _no_layer_score(scope, call)
    if issubclass(cls, TaskMetric):
        args = call.args or ()
        if len(args) != 2 or any(arg.key is not None for arg in args):
            help = f"as in `{cls.layer_form()}`"
            scope.fail("LB104", f"`{name}` of a layer takes a task and an action", call.span, help=help)
        task = task_named(scope, args[0].value)
        return Score(call.span, name, task_name(task), _changing(scope, call, args[1].value, cls), False, None)
    if not cls.takes_action:
        return Score(call.span, name, name, None, False, _part(scope, call, cls))
    action = _changing(scope, call, only_argument(call), cls) if call.args else _without_arguments(cls.default_action)
    return Score(call.span, name, name, action, False, None)


def _no_layer_score(scope: Scope, call: tree.Call) -> NoReturn:
    """Report a value that is not of a single layer, and where it can be used."""
    name = call.name.name
    if name in metrics_of(Of.FINISHED):
        too_early(scope, call, "a rule")
    costs = (*STATIC_VALUES, *PREDICTED_VALUES)
    if name in costs or name in metrics_of(Of.CHANGED):
        whole, places = "the whole changed model", "`requires` or `assert`"
        if name in costs:
            whole, places = "the whole model", "`until`, `requires` or `assert`"
        message = f"`{name}` is a value of {whole}; expected a value of one layer"
        scope.fail("LB109", message, call.span, help=f"use `{name}` in {places}")
    _unknown_value(scope, call, rule=True)


def _without_arguments(kind: str) -> Action:
    return actions()[kind].model_validate({})


def _changing(scope: Scope, call: tree.Call, inner: tree.Expr | None, cls: type[Metric]) -> Action:
    """The action in `kl(swa(window=256))`, which must change a layer."""
    name = call.name.name
    if not isinstance(inner, tree.Call):
        scope.fail("LB104", f"`{name}` measures one action, as in `{cls.layer_form()}`", (inner or call).span)
    action = resolve_action(scope, inner)
    if action.keeps:
        message = f"`{inner.name.name}` changes nothing, so `{name}` of it is always 0"
        scope.fail("LB104", message, inner.span, help=f"name an action that changes the layer, as in `{cls.layer_form()}`")
    return action


def _part(scope: Scope, call: tree.Call, cls: type[Metric]) -> str | None:
    """The part of the layer, as in `influence(block)`; None for the default, `influence` or `influence(attention)`."""
    name = call.name.name
    parts: tuple[str, ...] = getattr(cls, "parts", ())
    if not call.args:
        return None
    inner = only_argument(call)
    if isinstance(inner, tree.Call) and inner.args is None:
        word = inner.name.name
        if word in parts:
            return None if word == parts[0] else word
        if parts and word not in actions():
            scope.unknown("LB105", f"`{name}` is not about `{word}`", inner.name, parts, "parts of a layer", "part")
    forms = ticked((f"{name}({part})" for part in parts), " or ")
    help = f"write `{name}`; the part of the layer is {forms}" if parts else f"write `{name}`"
    scope.fail("LB104", f"`{name}` takes no action", call.span, help=help)


def resolve_by(scope: Scope, node: tree.Expr, score_of: Callable[[Scope, tree.Call], Score] = resolve_score) -> Expr:
    """What `by` ranks layers by, or `choose` minimizes: a score, or a sum of scores, each times a number over 0 (LB105). A
    sum is of nats a token (LB107): anything else has no common measure. `score_of` resolves one score."""
    match node:
        case tree.Call():
            return score_of(scope, node)
        case tree.Arithmetic(ops=("*",), operands=(weight, tree.Call() as call)):
            return node.replace(operands=(_weight(scope, weight), score_of(scope, call)))
    if not isinstance(node, tree.Arithmetic) or set(node.ops) != {"+"}:
        scope.fail("LB152", "metrics are added, each times a number", node.span, help="as in `kl + 0.2 * recall`")
    found = rebuilt(node, operands=lambda part: resolve_by(scope, part, score_of))
    for part, written in zip(found.operands, node.operands, strict=True):
        ((_, score),) = terms_of(part)
        if unit_of(part) is not Unit.NATS:
            message = f"`{score.name}` is no {Unit.NATS.value}, and has no part in a sum"
            named = ticked(kind for kind, cls in metrics_of(Of.LAYER).items() if cls.unit is Unit.NATS)
            scope.fail("LB107", message, written.span, help=f"those that add up: {named}")
    return found


def _weight(scope: Scope, node: tree.Expr) -> tree.Number:
    """The factor of `0.2 * recall(...)`."""
    value = constant(scope, node)
    if not isinstance(value, tree.Number) or value.unit is not Unit.NONE:
        scope.fail("LB106", "a weight is a plain number", node.span, help="as in `kl(drop) + 0.2 * recall(drop)`")
    if not value.value > 0:
        scope.fail("LB105", "a weight is over 0", node.span, help="leave out what has no weight")
    return value


def _unknown_value(scope: Scope, call: tree.Call, rule: bool) -> NoReturn:
    """Report a name that is not a value here, with suggestions."""
    name, span = call.name.name, call.name.span
    if name in actions():
        text = actions()[name].example
        help = [f"a score under an action is `nll({text})` or `kl({text})`"]
        if name in FACTS:
            help.append(f"the model's own is `model.{name}`")
        scope.fail("LB128", f"`{name}` is an action, not a value", span, help=tuple(help))
    message = f"no metric `{name}`"
    if rule and name in _LAYER_NUMBERS:
        chosen = "layers are chosen by number with `layers`, as in `layers 0-3` or `layers last 4 where ...`"
        scope.fail("LB102", message, span, help=chosen)
    known: list[Any] = ["sensitivity", *metrics_of(Of.LAYER)]
    what, wishes = "metrics", "score"
    if not rule:
        known = [*metrics_of(Of.CHANGED), *STATIC_VALUES, *PREDICTED_VALUES, *metrics_of(Of.FINISHED)]
        what, wishes = "values of the model", "value"
    if name in FACTS:
        said = f"`{name}` is a fact of the source model: `model.{name}`"
        if rule:
            same = f"`{name}` is the same for every layer of a model, so it cannot rank or choose layers"
            said = wish(name, "score") or same
        scope.fail("LB102", message, span, help=(said, f"{what}: {ticked(sorted(known))}"))
    scope.unknown("LB102", message, call.name, known, what, wishes)


# Values of the whole model -------------------------------------------------------------------------------------------
