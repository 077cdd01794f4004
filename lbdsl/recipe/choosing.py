"""Resolve `choose for layers SET among ACTION, ... minimizing METRIC subject to CONDITION, ...`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from lbdsl.actions import Action
from lbdsl.actions.base import together
from lbdsl.core.diagnostic import Label, rewrite
from lbdsl.core.units import Unit
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.cost.profile import PREDICTED_VALUES
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.language.tree import walk
from lbdsl.language.words import ticked
from lbdsl.metrics import Of, metric_of, metrics_of
from lbdsl.recipe.expressions import resolve_by, resolve_expr, resolved_condition
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
    Terms,
    terms_of,
    weighted_text,
)
from lbdsl.recipe.schema_blocks import task_name
from lbdsl.recipe.scope import Scope, Unresolved, attempt, each
from lbdsl.recipe.sets import resolve_set
from lbdsl.recipe.types import has_cost, unit_of
from lbdsl.recipe.values import constant, resolve_action


def resolve_choose(scope: Scope, node: tree.Choose) -> Choosing:
    """Errors: LB152 for alternatives that are none, and for layers that only scores know; and those of its parts."""
    layers = attempt(resolve_set, scope, node.layers)
    if layers is not None and any(isinstance(part, tree.RankedSet) for part in walk(layers)):
        help = "name them by number; scores decide what they get"
        scope.error("LB152", "the layers of `choose` are known before any score", node.layers.span, help=help)
        layers = None
    alternatives = attempt(each, partial(_alternative, scope), node.among)
    objective: Any = attempt(_cost if is_cost(node.minimizing) else _metrics, scope, node.minimizing)
    limits = attempt(each, partial(_limit, scope), node.subject_to)
    if layers is None or alternatives is None or objective is None or limits is None:
        raise Unresolved
    cost, minimized = (objective, ()) if is_cost(node.minimizing) else (None, objective)
    budgets = tuple(limit for limit in limits if isinstance(limit, ResolvedAssertion))
    bounds = tuple(limit for limit in limits if isinstance(limit, Bound))
    if cost is not None and not bounds:
        hint = f"as in `minimizing {one_line(cost.span.text)} subject to kl <= 0.05, recall <= 0.1`"
        scope.fail("LB152", "a cost is minimized within what the plan may lose", cost.span, help=hint)
    first: dict[frozenset[Action], Sequence[tree.Call]] = {}
    for actions, calls in zip(alternatives, node.among, strict=True):
        same = first.setdefault(frozenset(actions), calls)
        if same is not calls:
            place, label = calls[0].span.to(calls[-1].span), Label(same[0].span, "first here")
            scope.fail("LB152", f"`{one_line(place.text)}` is among them twice", place, labels=label, help="remove one")
    if len(alternatives) < 2:
        hint = "as in `among keep, swa(window=256), drop`; a rule `layers SET ACTION` has one"
        scope.fail("LB152", "`choose` needs two alternatives or more", node.among[0][0].span, help=hint)
    found = Choosing(node.span, layers, alternatives, (), _named(minimized), cost, budgets, bounds)
    names = {score.metric: score.name for _, score in minimized}
    scores: list[tree.Items | None] = []
    for actions, (call, *_) in zip(alternatives, node.among, strict=True):
        one = together(actions)
        measured = (Score(call.span, names.get(metric, metric), metric, one, False, None) for metric in found.metrics)
        scores.append(None if all(a.keeps for a in actions) else tree.Items(call.span, tuple(measured)))
    return found.replace(scores=tuple(scores))


def check_beside(scope: Scope, rules: Sequence[Rule], measure: Measure, *, choosing: bool) -> None:
    """LB152 for a second `while`, for rules beside a `choose` whose layers would depend on what it chooses, for patches
    beside either, for a screen without `kl`, and for a greedy choice without a `choose` or without `keep`.
    `choosing`: a `choose` is written, with errors or not, or one that does not parse."""
    refuse = partial(scope.error, "LB152")
    ranked = [(rule, rule.selector) for rule in rules if isinstance(rule.selector, tree.RankSelector)]
    holding = [(rule, selector.while_) for rule, selector in ranked if selector.while_ is not None]
    for rule, _ in holding[1:]:
        first = Label(holding[0][0].span, "the first one")
        refuse("a recipe has one `while`", rule.span, help="give the others a number of layers", labels=first)
    for rule, condition in holding:
        if not any(isinstance(part, Score) for part in walk(condition)):
            message = "`while` needs a score of the whole changed model, as in `nll <= 0.05`"
            refuse(message, rule.span, help="for a cost write `until`: as few layers as make it hold")
    chosen = next((rule.selector for rule in rules if isinstance(rule.selector, Choosing)), None)
    place = measure.set_at.get("strategy", measure.span)
    unknown = choosing and chosen is None
    if measure.strategy == "screen" and not unknown and not any(map(screened_scores, rules)):
        message = "`strategy = screen` estimates the `kl` of a `choose` and the `recall` of windows, and nothing has one"
        refuse(message, place, help="leave it out")
    if measure.strategy == "greedy" and not choosing:
        refuse("`strategy = greedy` is for a `choose`", place, help="leave it out")
    if measure.strategy == "greedy" and chosen is not None and None not in chosen.scores:
        help = "add `keep` to its alternatives, or leave out `strategy = greedy`"
        refuse("`strategy = greedy` begins with layers that are kept", chosen.span, help=help)
    if chosen is not None and chosen.bounds and (measure.strategy == "greedy" or not measure.tries):
        name = "strategy" if measure.strategy == "greedy" else "tries"
        help = f"leave out `{name}`: plans are measured until one keeps `{chosen.bounds[0].text}`"
        refuse("what is measured has a bound, and nothing measures plans", place, help=help)
    several = "choose" if chosen is not None else "while" if holding else ""
    for rule in rules if several else ():
        if any(action.patched for action in rule.actions):
            message = f"patches are fitted to a whole plan, and `{several}` measures many"
            refuse(message, rule.span, help="take bare drops; patch them in a recipe that names the layers")
    for rule, selector in ranked if chosen is not None else ():
        words = {"until": selector.until is not None, "while": selector.while_ is not None, "of rest": selector.of_rest}
        word = next((word for word, there in words.items() if there), "")
        if word and chosen is not None:
            message = f"`{word}` beside `choose`: which layers it takes would depend on what is chosen"
            help = "name a number of layers, and put budgets after `subject to`"
            refuse(message, rule.span, help=help, labels=Label(chosen.span, "chooses for a budget"))


def screened_scores(rule: Rule) -> tuple[Score, ...]:
    """The scores that `strategy = screen` estimates: those by which a `choose` or a ranking orders layers, of `kl` where it
    chooses, and of `recall` where the action is a window."""
    chosen, parts = isinstance(rule.selector, Choosing), tuple(walk(rule.selector))
    orders = [part.by for part in parts if isinstance(part, tree.RankSelector | tree.RankedSet)]
    orders += [by for part in parts if isinstance(part, Choosing) for by in part.scores if by is not None]
    return tuple(
        score
        for by in orders
        for score in walk(by)
        if isinstance(score, Score)
        and score.action is not None
        and ((chosen and score.metric == "kl") or (score.metric == "recall" and score.action.claims() == ("mixer.window",)))
    )


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
        message = f"`{one_line(node.span.text)}` is predicted, and only a cost that is exact can be minimized"
        named = ticked(STATIC_VALUES)
        scope.fail("LB152", message, node.span, help=f"minimize one of {named}, and bound this after `subject to`")
    return found


def _metrics(scope: Scope, node: tree.Expr, use: str = "minimized") -> tuple[tuple[float, Score], ...]:
    """A metric, or a sum of metrics in nats a token, each once and with a weight or none. `use` is said in messages."""
    terms = terms_of(resolve_by(scope, node, partial(_metric, use=use)))
    first: dict[str, Score] = {}
    for _, score in terms:
        if first.setdefault(score.metric, score) is not score:
            scope.fail("LB152", f"`{score.metric}` is added twice", score.span, help="give it one weight")
    return terms


def _named(terms: Iterable[tuple[float, Score]]) -> Terms:
    return tuple((weight, score.metric) for weight, score in terms)


def _limit(scope: Scope, node: tree.Expr) -> ResolvedAssertion | Bound:
    """A budget, or a bound of what is measured."""
    names = {part.name.name for part in walk(node) if isinstance(part, tree.Call)}
    if not names & {"sensitivity", "task", *metrics_of(Of.CHANGED)}:
        found = resolved_condition(scope, node, "subject to")
        _check_budget(scope, found.expr, node)
        return found
    ops = [op.text for op in node.ops] if isinstance(node, tree.Compare) else []
    if not isinstance(node, tree.Compare) or ops != ["<="]:
        fix = rewrite(node.ops[0].span, "<=") if isinstance(node, tree.Compare) and ops == ["<"] else None
        help = "as in `kl <= 0.05, recall <= 0.1`; check anything else with an `assert`"
        message = "a bound of what is measured is `METRIC <= NUMBER`; several have commas between them"
        scope.fail("LB152", message, node.span, help=fix.title if fix else help, fix=fix)
    terms = _named(_metrics(scope, node.operands[0], "bounded"))
    unit, most = metric_of(terms[0][1]).unit, constant(scope, node.operands[1])
    if not isinstance(most, tree.Number) or most.unit not in (Unit.NONE, unit):
        said = f"`{weighted_text(terms)}` is bounded by a number of {unit.value}"
        scope.fail("LB107", said, node.operands[1].span, help=f"as in `{weighted_text(terms)} <= 0.1`")
    if most.value < 0 and [metric for _, metric in terms] == ["kl"]:
        scope.fail("LB152", "`kl` is never negative", node.operands[1].span, help="raise the bound, as in `kl <= 0.05`")
    return Bound(node.span, f"{weighted_text(terms)} <= {float(most.value):.12g}", terms, float(most.value), unit)


def _metric(scope: Scope, call: tree.Call, use: str) -> Score:
    """The metric to minimize or to bound: one of a single layer under an action, and of the whole changed model."""
    name = call.name.name
    if name == "task":
        if call.args is None or len(call.args) != 1:
            scope.fail("LB104", "`task` takes the name of a task", call.span, help='as in `minimizing task("hellaswag")`')
        return Score(call.span, name, task_name(task_named(scope, call.args[0].value)), None, True, None)
    known = [kind for kind, cls in metrics_of(Of.LAYER).items() if cls.takes_action and kind in metrics_of(Of.CHANGED)]
    found = scope.metric if name == "sensitivity" else name
    if found not in known and found != name:
        listed = f"metrics: {ticked((*known, 'task'))}"
        scope.fail("LB102", f"`{name}` is `{found}` here, which cannot be {use}", call.span, help=listed)
    if found not in known:
        if is_cost(call):
            scope.fail("LB152", f"`{name}` is a cost, which has no part in a sum", call.span, help="write one cost alone")
        costs = STATIC_VALUES if use == "minimized" else ()
        names, what = ("sensitivity", *known, "task", *costs), "metrics and costs" if costs else "metrics"
        scope.unknown("LB102", f"`{name}` cannot be {use}", call.name, names, what, "score")
    if call.args is not None:
        scope.fail("LB104", f"`{name}` is {use} without an action: it is measured of the whole plan", call.span, write=name)
    return Score(call.span, name, found, None, True, None)


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
            divides = any(op == "/" and cost for op, cost in zip(expr.ops, costs[1:], strict=True))
            scaled = set(expr.ops) <= {"+", "-"} or (sum(costs) <= 1 and not divides)
            return scaled and all(_sums(part) for part in expr.operands)
        case _:
            return True
