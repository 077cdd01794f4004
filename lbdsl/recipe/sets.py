"""Resolve sets of layers and selectors of rules. Ranges stay intervals, whatever their size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from lbdsl.core.diagnostic import Edit, Fix
from lbdsl.core.units import Unit
from lbdsl.language import tree
from lbdsl.language.tree import AllLayers, LayerSet, Number, Range, Selector
from lbdsl.recipe.expressions import resolve_by, resolve_condition
from lbdsl.recipe.patterns import resolve_pattern
from lbdsl.recipe.schema import Amount, ends
from lbdsl.recipe.scope import Named, Scope, Unresolved, attempt, rebuilt, size_of
from lbdsl.recipe.values import constant, whole_number

MAX_NODES = 10_000
MAX_DEPTH = 128


def resolve_selector(scope: Scope, node: tree.Selector) -> Selector:
    """The selector of a rule, with its names resolved."""
    resolvers: dict[str, Callable[[Any], Any]] = {
        "patterns": partial(resolve_pattern, scope),
        "layers": partial(resolve_set, scope),
        "amount": partial(_amount, scope),
        "by": partial(resolve_by, scope),
        "where": lambda condition: resolve_condition(scope, condition, "where"),
        "until": lambda condition: resolve_condition(scope, condition, "until"),
        "while_": lambda condition: resolve_condition(scope, condition, "while"),
    }
    return cast(Selector, rebuilt(node, **{name: resolvers[name] for name in node._fields if name in resolvers}))


def resolve_group(scope: Scope, node: tree.Group) -> LayerSet | None:
    """Define the group; None, with errors, for an invalid set."""
    layers = attempt(resolve_set, scope, node.layers)
    if scope.define(node.name):
        named = None if layers is None else Named(layers, *size_of(node.layers, scope.groups, LayerSet))
        scope.groups[node.name.name] = named
    return layers


def resolve_set(scope: Scope, node: LayerSet) -> LayerSet:
    """The set, with groups replaced by their sets. `3` is the range 3-3, and `not` is `all except`."""
    resolve = partial(resolve_set, scope)
    found: LayerSet
    match node:
        case tree.AllLayers():
            return node
        case tree.Point():
            index = _layer(scope, node.value)
            return Range(node.span, index, index)
        case tree.Range():
            return _range(scope, node)
        case tree.Edge():
            return rebuilt(node, amount=partial(_amount, scope))
        case tree.Every():
            if node.step.value < 1:
                scope.fail("LB211", "a step is at least 1", node.step.span, help="`every 1` is `all`")
            return node
        case tree.RankedSet():
            return rebuilt(node, amount=partial(_amount, scope), by=partial(resolve_by, scope))
        case tree.GroupRef():
            return _group(scope, node)
        case tree.UnionSet() | tree.InterSet():
            found = rebuilt(node, sets=resolve)
        case tree.ExceptSet():
            found = rebuilt(node, base=resolve, removed=resolve)
        case tree.NotSet():
            found = tree.ExceptSet(node.span, AllLayers(node.span), resolve(node.operand))
    nodes, depth = size_of(node, scope.groups, LayerSet)
    if nodes > MAX_NODES or depth >= MAX_DEPTH:
        message = f"a set of more than {MAX_NODES} parts" if nodes > MAX_NODES else f"groups nested deeper than {MAX_DEPTH}"
        scope.fail("LB212", message, node.span, help="say it with ranges")
    return found


def _amount(scope: Scope, node: Number | tree.Variable) -> Amount:
    """`6`, `30%` or a variable that holds one of them."""
    value = constant(scope, node)
    if isinstance(value, Number) and value.unit is Unit.RATIO:
        if not 0 <= value.value <= 1:
            scope.fail("LB211", f"a share of {value.value * 100:g} %", node.span, help="a share is between 0% and 100%")
        return Amount(node.span, value.value, Unit.RATIO, value.text)
    count = whole_number(scope, "the number of layers", value)
    if count < 0:
        scope.fail("LB211", f"an amount of {count} layers", node.span, help="an amount is not negative")
    return Amount(node.span, count, Unit.NONE, str(count))


def _layer(scope: Scope, node: Number | tree.Variable) -> Number:
    index = whole_number(scope, "a layer", node)
    if index < 0:
        scope.fail("LB211", f"layer {index} does not exist", node.span, help="layers are counted from 0")
    return Number(node.span, index, Unit.NONE, str(index))


def _range(scope: Scope, node: Range) -> Range:
    layer: Any = partial(_layer, scope)
    found = rebuilt(node, first=layer, last=layer)
    first, last = ends(found)
    if first > last:
        turned = f"{node.last.span.text}-{node.first.span.text}"
        fix = Fix("swap the ends", (Edit(node.span, turned),))
        scope.fail("LB205", f"range runs backwards: {first} to {last}", node.span, help=f"write `{turned}`", fix=fix)
    return found


def _group(scope: Scope, node: tree.GroupRef) -> LayerSet:
    scope.used.add(f"@{node.name}")
    if node.name not in scope.groups:
        scope.unknown("LB111", f"no group `@{node.name}`", node, scope.groups, "groups defined above")
    group = scope.groups[node.name]
    if group is None:
        raise Unresolved
    return group.node
