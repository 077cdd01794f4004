"""Resolve `choose for layers SET among ACTION, ... minimizing METRIC subject to CONDITION, ...`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lbdsl.actions import Action
from lbdsl.actions.base import together
from lbdsl.core.diagnostic import Label
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.metrics import Of, metrics_of
from lbdsl.recipe.expressions import resolve_condition
from lbdsl.recipe.rules import check_actions
from lbdsl.recipe.schema import Choosing, Measure, ResolvedAssertion, Rule, Score
from lbdsl.recipe.scope import Scope, Unresolved, attempt, each
from lbdsl.recipe.sets import resolve_set
from lbdsl.recipe.types import phase_of, walk
from lbdsl.recipe.values import resolve_action


def resolve_choose(scope: Scope, node: tree.Choose) -> Choosing:
    """Errors: LB152 for alternatives that are none, and for layers that only scores know; and those of its parts."""
    layers = attempt(resolve_set, scope, node.layers)
    if layers is not None and any(isinstance(part, tree.RankedSet) for part in walk(layers)):
        help = "name them by number; scores decide what they get"
        scope.error("LB152", "the layers of `choose` are known before any score", node.layers.span, help=help)
        layers = None
    alternatives = attempt(each, partial(_alternative, scope), node.among)
    metric = attempt(_metric, scope, node.minimizing)
    budgets = attempt(each, partial(_budget, scope), node.subject_to)
    if layers is None or alternatives is None or metric is None or budgets is None:
        raise Unresolved
    first: dict[tuple[Action, ...], Sequence[tree.Call]] = {}
    for actions, calls in zip(alternatives, node.among, strict=True):
        place = calls[0].span.to(calls[-1].span)
        if actions in first:
            label = Label(first[actions][0].span, "first here")
            scope.fail("LB152", f"`{one_line(place.text)}` is among them twice", place, labels=(label,), help="remove one")
        first[actions] = calls
    if len(alternatives) < 2:
        hint = "as in `among keep, swa(window=256), drop`; a rule `layers SET ACTION` has one"
        scope.fail("LB152", "`choose` needs two alternatives or more", node.among[0][0].span, help=hint)
    named, kind = node.minimizing.name.name, metric
    scores = tuple(
        None if all(a.keeps for a in actions) else Score(calls[0].span, named, kind, together(actions), False, None)
        for actions, calls in zip(alternatives, node.among, strict=True)
    )
    return Choosing(node.span, layers, alternatives, scores, kind, budgets)


def check_beside(scope: Scope, rules: Sequence[Rule], measure: Measure) -> None:
    """LB152 for a second `while`, for rules beside a `choose` whose layers would depend on what it chooses, and for a
    screen of another metric than `kl`."""
    bounded = [rule for rule in rules if isinstance(rule.selector, tree.RankSelector) and rule.selector.while_ is not None]
    for rule in bounded[1:]:
        label = Label(bounded[0].span, "the first one")
        help = "give the others a number of layers"
        scope.error("LB152", "a recipe has one `while`", rule.span, labels=(label,), help=help)
    for rule in bounded[:1]:
        if any(action.patched for action in rule.actions):
            help = "take bare drops; patch them in a recipe that names the layers"
            scope.error("LB152", "`while` has no drops with patches", rule.span, help=help)
    choose = next((rule for rule in rules if isinstance(rule.selector, Choosing)), None)
    minimizes = choose.selector.metric if choose is not None and isinstance(choose.selector, Choosing) else None
    if measure.strategy == "screen" and minimizes != "kl":
        message = "`strategy = screen` estimates `kl`, for a `choose ... minimizing kl`"
        scope.error("LB152", message, measure.set_at.get("strategy", measure.span), help="leave it out")
    if choose is None:
        return
    for rule in rules:
        selector = rule.selector
        if not isinstance(selector, tree.RankSelector):
            continue
        words = {"until": selector.until is not None, "while": selector.while_ is not None, "of rest": selector.of_rest}
        word = next((word for word, there in words.items() if there), None)
        if word is not None:
            message = f"`{word}` beside `choose`: which layers it takes would depend on what is chosen"
            label = Label(choose.span, "chooses for a budget")
            help = "name a number of layers, and put budgets after `subject to`"
            scope.error("LB152", message, rule.span, labels=(label,), help=help)


def _alternative(scope: Scope, calls: tuple[tree.Call, ...]) -> tuple[Action, ...]:
    actions = each(partial(resolve_action, scope), calls)
    for action, call in zip(actions, calls, strict=True):
        if action.patched:
            help = "choose among bare drops; patch them in a recipe with the layers that were chosen"
            scope.fail("LB152", "`choose` has no drops with patches", call.span, help=help)
    if not check_actions(scope, calls, actions):
        raise Unresolved
    return actions


def _metric(scope: Scope, call: tree.Call) -> str:
    """The metric to minimize: one of a single layer under an action, and of the whole changed model."""
    name = call.name.name
    known = {kind: cls for kind, cls in metrics_of(Of.LAYER).items() if cls.takes_action and kind in metrics_of(Of.CHANGED)}
    if call.args is not None:
        scope.fail("LB104", f"`{name}` is minimized without an action", call.span, help=f"write `minimizing {name}`")
    found = scope.metric if name == "sensitivity" else name
    if found not in known:
        scope.unknown("LB102", f"`{name}` cannot be minimized", call.name, ("sensitivity", *known), "metrics", "score")
    return found


def _budget(scope: Scope, node: tree.Expr) -> ResolvedAssertion:
    expr = resolve_condition(scope, node, "subject to")
    return ResolvedAssertion(node.span, expr, phase_of(expr), one_line(node.span.text))
