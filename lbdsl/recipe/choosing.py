"""Resolve `choose for layers SET among ACTION, ... minimizing METRIC subject to CONDITION, ...`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lbdsl.actions import Action
from lbdsl.actions.base import together
from lbdsl.core.diagnostic import Label
from lbdsl.core.units import Unit
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.cost.profile import PREDICTED_VALUES
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import walk
from lbdsl.metrics import Of, metric_of, metrics_of
from lbdsl.recipe.expressions import resolve_expr, resolved_condition, weight_of
from lbdsl.recipe.model_values import task_named
from lbdsl.recipe.rules import check_actions
from lbdsl.recipe.schema import (
    Bound,
    Choosing,
    CostOf,
    Measure,
    PredictedOf,
    ResolvedAssertion,
    Rule,
    Score,
    Serves,
    weighted_text,
)
from lbdsl.recipe.schema_blocks import task_name
from lbdsl.recipe.scope import Scope, Unresolved, attempt, each
from lbdsl.recipe.sets import resolve_set
from lbdsl.recipe.types import has_cost, unit_of
from lbdsl.recipe.values import constant, resolve_action

Minimized = tuple[tuple[float, str, str], ...]
"""What is minimized: the weight of each metric, its name in the recipe, and what that stands for."""


def resolve_choose(scope: Scope, node: tree.Choose) -> Choosing:
    """Errors: LB152 for alternatives that are none, and for layers that only scores know; and those of its parts."""
    layers = attempt(resolve_set, scope, node.layers)
    if layers is not None and any(isinstance(part, tree.RankedSet) for part in walk(layers)):
        help = "name them by number; scores decide what they get"
        scope.error("LB152", "the layers of `choose` are known before any score", node.layers.span, help=help)
        layers = None
    alternatives = attempt(each, partial(_alternative, scope), node.among)
    cost = attempt(_cost, scope, node.minimizing) if is_cost(node.minimizing) else None
    minimized: Minimized | None = () if is_cost(node.minimizing) else attempt(_minimized, scope, node.minimizing)
    limits = attempt(each, partial(_limit, scope), node.subject_to)
    if layers is None or alternatives is None or minimized is None or limits is None:
        raise Unresolved
    if not minimized and cost is None:
        raise Unresolved
    budgets = tuple(limit for limit in limits if isinstance(limit, ResolvedAssertion))
    bounds = tuple(limit for limit in limits if isinstance(limit, Bound))
    if cost is not None and not bounds:
        hint = f"as in `minimizing {one_line(cost.span.text)} subject to kl <= 0.05, recall <= 0.1`"
        scope.fail("LB152", "a cost is minimized within what the plan may lose", cost.span, help=hint)
    first: dict[frozenset[Action], Sequence[tree.Call]] = {}
    for actions, calls in zip(alternatives, node.among, strict=True):
        place, same = calls[0].span.to(calls[-1].span), frozenset(actions)
        if same in first:
            label = Label(first[same][0].span, "first here")
            scope.fail("LB152", f"`{one_line(place.text)}` is among them twice", place, labels=(label,), help="remove one")
        first[same] = calls
    if len(alternatives) < 2:
        hint = "as in `among keep, swa(window=256), drop`; a rule `layers SET ACTION` has one"
        scope.fail("LB152", "`choose` needs two alternatives or more", node.among[0][0].span, help=hint)
    terms = tuple((weight, metric) for weight, _, metric in minimized)
    found = Choosing(node.span, layers, alternatives, (), terms, cost, budgets, bounds)
    names = {metric: name for _, name, metric in minimized}
    scores = tuple(
        None
        if all(a.keeps for a in actions)
        else tree.Items(
            calls[0].span,
            tuple(
                Score(calls[0].span, names.get(metric, metric), metric, together(actions), False, None)
                for metric in found.metrics
            ),
        )
        for actions, calls in zip(alternatives, node.among, strict=True)
    )
    return Choosing(node.span, layers, alternatives, scores, terms, cost, budgets, bounds)


def check_beside(scope: Scope, rules: Sequence[Rule], measure: Measure, *, choosing: bool) -> None:
    """LB152 for a second `while`, for rules beside a `choose` whose layers would depend on what it chooses, for patches
    beside either, for a screen without `kl`, and for a greedy choice without a `choose` or without `keep`.
    `choosing`: a `choose` is written, with errors or not, or one that does not parse."""
    ranked = [(rule, rule.selector) for rule in rules if isinstance(rule.selector, tree.RankSelector)]
    holding = [(rule, selector.while_) for rule, selector in ranked if selector.while_ is not None]
    for rule, _ in holding[1:]:
        label = Label(holding[0][0].span, "the first one")
        help = "give the others a number of layers"
        scope.error("LB152", "a recipe has one `while`", rule.span, labels=(label,), help=help)
    for rule, condition in holding:
        if not any(isinstance(part, Score) for part in walk(condition)):
            message = "`while` needs a score of the whole changed model, as in `nll <= 0.05`"
            scope.error("LB152", message, rule.span, help="for a cost write `until`: as few layers as make it hold")
    chosen = next((rule.selector for rule in rules if isinstance(rule.selector, Choosing)), None)
    place = measure.set_at.get("strategy", measure.span)
    screens = choosing if chosen is None else "kl" in chosen.metrics
    if measure.strategy == "screen" and not screens:
        message = "`strategy = screen` estimates `kl`, for a `choose ... minimizing kl`"
        scope.error("LB152", message, place, help="leave it out")
    if measure.strategy == "greedy" and not choosing:
        scope.error("LB152", "`strategy = greedy` is for a `choose`", place, help="leave it out")
    if measure.strategy == "greedy" and chosen is not None and None not in chosen.scores:
        help = "add `keep` to its alternatives, or leave out `strategy = greedy`"
        scope.error("LB152", "`strategy = greedy` begins with layers that are kept", chosen.span, help=help)
    if chosen is not None and chosen.bounds and (measure.strategy == "greedy" or not measure.tries):
        name = "strategy" if measure.strategy == "greedy" else "tries"
        help = f"leave out `{name}`: plans are measured until one keeps `{chosen.bounds[0].text}`"
        scope.error("LB152", "what is measured has a bound, and nothing measures plans", place, help=help)
    several = "choose" if chosen is not None else "while" if holding else ""
    for rule in rules if several else ():
        if any(action.patched for action in rule.actions):
            message = f"patches are fitted to a whole plan, and `{several}` measures many"
            help = "take bare drops; patch them in a recipe that names the layers"
            scope.error("LB152", message, rule.span, help=help)
    for rule, selector in ranked if chosen is not None else ():
        words = {"until": selector.until is not None, "while": selector.while_ is not None, "of rest": selector.of_rest}
        word = next((word for word, there in words.items() if there), "")
        if word and chosen is not None:
            message = f"`{word}` beside `choose`: which layers it takes would depend on what is chosen"
            label = Label(chosen.span, "chooses for a budget")
            help = "name a number of layers, and put budgets after `subject to`"
            scope.error("LB152", message, rule.span, labels=(label,), help=help)


def _alternative(scope: Scope, calls: tuple[tree.Call, ...]) -> tuple[Action, ...]:
    actions = each(partial(resolve_action, scope), calls)
    if not check_actions(scope, calls, actions):
        raise Unresolved
    return actions


def is_cost(node: tree.Expr) -> bool:
    return isinstance(node, tree.Call) and (node.name.name in STATIC_VALUES or node.name.name in PREDICTED_VALUES)


def _cost(scope: Scope, node: tree.Expr) -> tree.Expr:
    found = resolve_expr(scope, node, "subject to")
    if not isinstance(found, CostOf) or isinstance(found, PredictedOf):
        named = ", ".join(f"`{name}`" for name in STATIC_VALUES)
        message = f"`{one_line(node.span.text)}` is predicted, and only a cost that is exact can be minimized"
        scope.fail("LB152", message, node.span, help=f"minimize one of {named}, and bound this after `subject to`")
    return found


def _minimized(scope: Scope, node: tree.Expr) -> Minimized:
    """A metric, or a sum of metrics in nats a token, each once and with a weight or none."""
    if isinstance(node, tree.Call):
        return ((1.0, node.name.name, _metric(scope, node)),)
    ops = set(node.ops) if isinstance(node, tree.Arithmetic) else set()
    if isinstance(node, tree.Arithmetic) and ops == {"*"} and len(node.operands) == 2:
        factor, call = node.operands
        if isinstance(call, tree.Call):
            return ((float(weight_of(scope, factor).value), call.name.name, _metric(scope, call)),)
    if not isinstance(node, tree.Arithmetic) or ops != {"+"}:
        scope.fail("LB152", "metrics are added, each times a number", node.span, help="as in `kl + 0.2 * recall`")
    found: dict[str, tuple[float, str, str]] = {}
    for written in node.operands:
        (term,) = _minimized(scope, written)
        _, name, metric = term
        if metric_of(metric).unit is not Unit.NATS:
            message = f"`{name}` is no {Unit.NATS.value}, and has no part in a sum"
            scope.fail("LB107", message, written.span, help="name it alone, or check it with an `assert`")
        if metric in found:
            scope.fail("LB152", f"`{metric}` is added twice", written.span, help="give it one weight")
        found[metric] = term
    return (*found.values(),)


def _limit(scope: Scope, node: tree.Expr) -> ResolvedAssertion | Bound:
    """A budget, or a bound of what is measured."""
    names = {part.name.name for part in walk(node) if isinstance(part, tree.Call)}
    if not names & {"sensitivity", "task", *metrics_of(Of.CHANGED)}:
        return _budget(scope, node)
    if not isinstance(node, tree.Compare) or [op.text for op in node.ops] != ["<="]:
        strict = isinstance(node, tree.Compare) and [op.text for op in node.ops] == ["<"]
        help = "write `<=`" if strict else "as in `kl <= 0.05, recall <= 0.1`; check anything else with an `assert`"
        scope.fail("LB152", "a bound of what is measured is `METRIC <= NUMBER`, one after the other", node.span, help=help)
    terms = tuple((weight, metric) for weight, _, metric in _minimized(scope, node.operands[0]))
    unit, most = metric_of(terms[0][1]).unit, constant(scope, node.operands[1])
    if not isinstance(most, tree.Number) or most.unit not in (Unit.NONE, unit):
        said = f"`{weighted_text(terms)}` is bounded by a number of {unit.value}"
        scope.fail("LB107", said, node.operands[1].span, help="as in `kl <= 0.05`")
    return Bound(node.span, f"{weighted_text(terms)} <= {float(most.value):.12g}", terms, float(most.value), unit)


def _metric(scope: Scope, call: tree.Call) -> str:
    """The metric to minimize: one of a single layer under an action, and of the whole changed model."""
    name = call.name.name
    if name == "task" and call.args is not None and len(call.args) == 1:
        return task_name(task_named(scope, call.args[0].value))
    known = [kind for kind, cls in metrics_of(Of.LAYER).items() if cls.takes_action and kind in metrics_of(Of.CHANGED)]
    found = scope.metric if name == "sensitivity" else name
    if found not in known and found != name:
        listed = "metrics: " + ", ".join(f"`{kind}`" for kind in (*known, "task"))
        scope.fail("LB102", f"`{name}` is `{found}` here, which cannot be minimized", call.span, help=listed)
    if name == "task":
        help = 'as in `minimizing task("hellaswag")`'
        scope.fail("LB104", "`task` takes the name of a task", call.span, help=help)
    if found not in known:
        names = ("sensitivity", *known, "task")
        scope.unknown("LB102", f"`{name}` cannot be minimized", call.name, names, "metrics", "score")
    if call.args is not None:
        scope.fail("LB104", f"`{name}` is minimized without an action", call.span, help=f"write `minimizing {name}`")
    return found


def _budget(scope: Scope, node: tree.Expr) -> ResolvedAssertion:
    found = resolved_condition(scope, node, "subject to")
    _check_budget(scope, found.expr, node)
    return found


def _check_budget(scope: Scope, expr: tree.Expr, node: tree.Expr) -> None:
    """LB152 unless it is `serves(...)`, a comparison of sums over layers, or several of them that must all hold."""
    if isinstance(expr, tree.Logic) and expr.op == "and":
        for part in expr.operands:
            _check_budget(scope, part, node)
    elif isinstance(expr, tree.Compare) and all(op.text in ("<=", ">=") for op in expr.ops):
        if not all(_sums(side) for side in expr.operands):
            message = "a budget compares a cost, or a sum of costs, with a bound"
            scope.fail("LB152", message, node.span, help="as in `kv(32Ki) <= 40%`; check others with an `assert`")
    elif not isinstance(expr, Serves):
        hint = "budgets are separated by commas, and all of them must hold; check anything else with an `assert`"
        strict = next((op for op in expr.ops if op.text in ("<", ">")), None) if isinstance(expr, tree.Compare) else None
        if strict is not None:
            hint = f"write `{strict.text}=`"
        elif isinstance(expr, tree.Logic) and expr.op == "or":
            hint = "make a plan for each, and compare them with `lbdsl diff`"
        scope.fail("LB152", "a budget is `serves(...)`, or a comparison with `<=` or `>=`", node.span, help=hint)


def _sums(expr: tree.Expr) -> bool:
    """Whether a value is a sum over layers, or does not depend on them. A rate is not, but alone its inverse is."""
    match expr:
        case tree.Minus():
            return _sums(expr.operand) and unit_of(expr) is not Unit.RATE
        case tree.Arithmetic():
            if any(has_cost(part) and unit_of(part) is Unit.RATE for part in expr.operands):
                return False
            costs = [has_cost(part) for part in expr.operands]
            scaled = set(expr.ops) <= {"+", "-"} or (sum(costs) <= 1 and not _divides(expr, costs))
            return scaled and all(_sums(part) for part in expr.operands)
        case _:
            return True


def _divides(expr: tree.Arithmetic, costs: Sequence[bool]) -> bool:
    """Whether something is divided by a cost."""
    return any(op == "/" and cost for op, cost in zip(expr.ops, costs[1:], strict=True))
