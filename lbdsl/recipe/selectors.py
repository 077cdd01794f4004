"""Rules: which layers or modules a selector means, and whether the actions of a rule go together."""

from __future__ import annotations

from lbdsl.actions import Action
from lbdsl.actions.base import acts_on_weights, touching
from lbdsl.core.diagnostic import Label
from lbdsl.recipe.calls import resolve_action
from lbdsl.recipe.expressions import resolve_condition
from lbdsl.recipe.schema import (
    ElseSelector,
    LayersSelector,
    ModulesSelector,
    RankSelector,
    Selector,
    WhereSelector,
)
from lbdsl.recipe.scope import Scope, at, replace
from lbdsl.recipe.sets import resolve_amount, resolve_by, resolve_pattern, resolve_set
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import one_line


def resolve_selector(scope: Scope, node: tree.Selector) -> Selector | None:
    match node:
        case tree.ElseSelector():
            return ElseSelector.model_construct(at=at(node))
        case tree.WhereSelector():
            where = resolve_condition(scope, node.where, "where")
            return None if where is None else WhereSelector.model_construct(where=where.expr, at=at(node))
        case tree.LayersSelector():
            layers = resolve_set(scope, node.layers)
            where = None if node.where is None else resolve_condition(scope, node.where, "where")
            if layers is None or (node.where is not None and where is None):
                return None
            return LayersSelector.model_construct(layers=layers.layers, where=where.expr if where else None, at=at(node))
        case tree.ModulesSelector():
            return _modules(scope, node)
        case tree.RankSelector():
            return _rank(scope, node)


def _modules(scope: Scope, node: tree.ModulesSelector) -> ModulesSelector | None:
    patterns = [resolve_pattern(scope, pattern) for pattern in node.patterns]
    good = [pattern for pattern in patterns if pattern is not None]
    layers = None if node.layers is None else resolve_set(scope, node.layers)
    where = None if node.where is None else resolve_condition(scope, node.where, "where")
    if (
        len(good) < len(patterns)
        or (node.layers is not None and layers is None)
        or (node.where is not None and where is None)
    ):
        return None
    return ModulesSelector.model_construct(
        patterns=tuple(good), layers=layers.layers if layers else None, where=where.expr if where else None, at=at(node)
    )


def _rank(scope: Scope, node: tree.RankSelector) -> RankSelector | None:
    amount = None if node.amount is None else resolve_amount(scope, node.amount)
    by = resolve_by(scope, node.by)
    until = None if node.until is None else resolve_condition(scope, node.until, "until")
    if by is None or (node.amount is not None and amount is None) or (node.until is not None and until is None):
        return None
    return RankSelector.model_construct(
        direction=node.direction,
        amount=amount,
        of_rest=node.of_rest,
        by=by,
        until=until.expr if until else None,
        at=at(node),
    )


def resolve_actions(scope: Scope, node: tree.RuleStatement) -> tuple[Action, ...] | None:
    found = [resolve_action(scope, call) for call in node.actions]
    actions = [action for action in found if action is not None]
    if len(actions) < len(found):
        return None
    if isinstance(node.selector, tree.ModulesSelector) and not _on_weights(scope, node, actions):
        return None
    for index, action in enumerate(actions):
        for earlier in range(index):
            if not _compose(scope, actions[earlier], action, node.actions[earlier], node.actions[index], node):
                return None
    return tuple(actions)


def _on_weights(scope: Scope, node: tree.RuleStatement, actions: list[Action]) -> bool:
    """Whether the actions of a `modules` rule are about weights."""
    good = True
    for action, call in zip(actions, node.actions, strict=True):
        if not acts_on_weights(action):
            scope.error(
                "LB216",
                f"`{action.kind}` is not about the weights of modules",
                call.span,
                labels=(Label(node.selector.span, "chooses modules"),),
                help="choose whole layers: `layers SET` or `where CONDITION`",
            )
            good = False
    return good


def _compose(
    scope: Scope, first: Action, second: Action, first_node: tree.Call, second_node: tree.Call, rule: tree.RuleStatement
) -> bool:
    path = touching(first, second)
    if path is None:
        return True
    keep = next((action for action in (first, second) if action.keeps and len(action.claims()) > 1), None)
    if keep is not None:
        whole = rule.actions[0].span.to(rule.actions[-1].span)
        others = [one_line(call.span.text) for call in rule.actions if call.name.name != keep.kind]
        scope.error(
            "LB204",
            f"`{keep.text()}` combines with nothing",
            whole,
            help=f"write `{keep.text()}`" + (f" or `{' + '.join(others)}`" if others else ""),
            fix=None if others else replace(whole, keep.text()),
        )
        return False
    keeps = first.keeps or second.keeps
    one, other = (first.text(), second.text()) if keeps or first.kind == second.kind else (first.kind, second.kind)
    scope.error(
        "LB203",
        f"`{one}` and `{other}` both {'claim' if keeps else 'change'} the {path} of a layer",
        second_node.span,
        labels=(Label(first_node.span, "claims it first" if keeps else "changes it first"),),
        help="use one of them",
    )
    return False
