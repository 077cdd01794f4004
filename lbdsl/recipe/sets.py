"""Sets of layers: tree to schema. Ranges stay intervals, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence

from lbdsl.core.diagnostic import Edit, Fix
from lbdsl.core.units import Unit
from lbdsl.recipe.calls import is_layer_score, resolve_score, unknown_value
from lbdsl.recipe.constants import variable, whole
from lbdsl.recipe.patterns import GLOB_SIGNS, bad_glob, bad_regex
from lbdsl.recipe.schema import (
    AllLayers,
    Amount,
    AnyOf,
    BothOf,
    Edge,
    Every,
    Except,
    Interval,
    ModulePattern,
    RankedSet,
    Score,
)
from lbdsl.recipe.scope import Constant, Scope, SizedSet, at
from lbdsl.syntax import tree

MAX_NODES = 10_000
MAX_DEPTH = 128


def resolve_set(scope: Scope, node: tree.LayerSet) -> SizedSet | None:
    """The set, with groups put in their place; None with an error."""
    match node:
        case tree.AllLayers():
            return SizedSet(AllLayers.model_construct(at=at(node)), 1, 1)
        case tree.Point():
            index = _layer(scope, node.value)
            return None if index is None else SizedSet(Interval.model_construct(first=index, last=index, at=at(node)), 1, 1)
        case tree.Range():
            return _range(scope, node)
        case tree.Edge():
            amount = resolve_amount(scope, node.amount)
            return (
                None
                if amount is None
                else SizedSet(Edge.model_construct(which=node.which, amount=amount, at=at(node)), 1, 1)
            )
        case tree.Every():
            step, start = int(node.step.value), int(node.start.value) if node.start else 0
            if step < 1:
                scope.error("LB211", "a step is at least 1", node.step.span, help="`every 1` is `all`")
                return None
            return SizedSet(Every.model_construct(step=step, start=start, at=at(node)), 1, 1)
        case tree.RankedSet():
            amount, by = resolve_amount(scope, node.amount), resolve_by(scope, node.by)
            if amount is None or by is None:
                return None
            return SizedSet(RankedSet.model_construct(direction=node.direction, amount=amount, by=by, at=at(node)), 1, 1)
        case tree.GroupRef():
            return _group(scope, node)
        case tree.UnionSet() | tree.InterSet():
            parts = _parts(scope, node.sets)
            if parts is None:
                return None
            kind = AnyOf if isinstance(node, tree.UnionSet) else BothOf
            layers = kind.model_construct(sets=tuple(part.layers for part in parts), at=at(node))
            return _sized(scope, node, parts, layers)
        case tree.ExceptSet():
            parts = _parts(scope, (node.base, node.removed))
            return (
                None
                if parts is None
                else _sized(
                    scope,
                    node,
                    parts,
                    Except.model_construct(base=parts[0].layers, removed=parts[1].layers, at=at(node)),
                )
            )
        case tree.NotSet():
            parts = _parts(scope, (node.operand,))
            return (
                None
                if parts is None
                else _sized(
                    scope,
                    node,
                    parts,
                    Except.model_construct(
                        base=AllLayers.model_construct(at=at(node)), removed=parts[0].layers, at=at(node)
                    ),
                )
            )


def resolve_pattern(scope: Scope, node: tree.Pattern | tree.String) -> ModulePattern | None:
    """A pattern of module names; None with LB122."""
    glob = isinstance(node, tree.String)
    reason = bad_glob(node.value) if glob else bad_regex(node.value)
    if reason is None:
        return ModulePattern.model_construct(text=node.value, glob=glob, at=at(node))
    help = (
        f'in a glob {GLOB_SIGNS}; a regular expression is `~"..."`'
        if glob
        else "patterns are RE2 regular expressions (linear time)"
    )
    scope.error("LB122", f"bad pattern: {reason}", node.span, help=help)
    return None


def resolve_by(scope: Scope, call: tree.Call) -> Score | None:
    """The metric after `by`."""
    if is_layer_score(call.name.name):
        return resolve_score(scope, call)
    from lbdsl.recipe.values import report_model_value

    if not report_model_value(scope, call):
        unknown_value(scope, call, rule=True)
    return None


def resolve_amount(scope: Scope, node: tree.Number | tree.Variable) -> Amount | None:
    """`6`, `30%` or a variable that holds one of them."""
    value = (
        variable(scope, node) if isinstance(node, tree.Variable) else Constant(node.value, node.unit, node.span, node.text)
    )
    if value is None:
        return None
    if value.kind == "number" and value.unit is Unit.RATIO:
        share = value.value
        assert isinstance(share, int | float)
        if not 0 <= share <= 1:
            scope.error("LB211", f"a share of {share * 100:g} %", node.span, help="a share is between 0% and 100%")
            return None
        return Amount.model_construct(share=share, at=at(node))
    count = whole(scope, value, (), "an amount of layers")
    if count is None:
        return None
    if count < 0:
        scope.error("LB211", f"an amount of {count} layers", node.span, help="an amount is not negative")
        return None
    return Amount.model_construct(count=count, at=at(node))


def _layer(scope: Scope, node: tree.Number | tree.Variable) -> int | None:
    value = (
        variable(scope, node) if isinstance(node, tree.Variable) else Constant(node.value, node.unit, node.span, node.text)
    )
    index = None if value is None else whole(scope, value, (), "a layer")
    if index is not None and index < 0:
        scope.error("LB211", f"layer {index} does not exist", node.span, help="layers are counted from 0")
        return None
    return index


def _range(scope: Scope, node: tree.Range) -> SizedSet | None:
    first, last = _layer(scope, node.first), _layer(scope, node.last)
    if first is None or last is None:
        return None
    if first > last:
        turned = f"{node.last.span.text}-{node.first.span.text}"
        scope.error(
            "LB205",
            f"range runs backwards: {first} to {last}",
            node.span,
            help=f"write `{turned}`",
            fix=Fix("turn it round", (Edit(node.span, turned),)),
        )
        return None
    return SizedSet(Interval.model_construct(first=first, last=last, at=at(node)), 1, 1)


def _group(scope: Scope, node: tree.GroupRef) -> SizedSet | None:
    scope.use("@", node.name)
    if node.name not in scope.groups:
        scope.unknown("LB111", f"no group `@{node.name}`", node.name, node.span, scope.groups, "groups defined above", "@")
        return None
    return scope.groups[node.name]


def _parts(scope: Scope, nodes: Sequence[tree.LayerSet]) -> list[SizedSet] | None:
    found = [resolve_set(scope, node) for node in nodes]
    parts = [part for part in found if part is not None]
    return parts if len(parts) == len(found) else None


def _sized(scope: Scope, node: tree.Node, parts: list[SizedSet], layers: AnyOf | BothOf | Except) -> SizedSet | None:
    nodes, depth = 1 + sum(part.nodes for part in parts), 1 + max(part.depth for part in parts)
    if nodes > MAX_NODES or depth > MAX_DEPTH:
        scope.error(
            "LB212",
            f"a set of more than {MAX_NODES} parts" if nodes > MAX_NODES else f"groups nested deeper than {MAX_DEPTH}",
            node.span,
            help="say it with ranges",
        )
        return None
    return SizedSet(layers, nodes, depth)
