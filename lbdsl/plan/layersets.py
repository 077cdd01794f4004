"""Which layers a layer set means for a model of L layers, and what is wrong with it for that model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, error
from lbdsl.recipe.schema import (
    AllLayers,
    Amount,
    Edge,
    Every,
    ExceptSet,
    InterSet,
    LayerSet,
    LayersSelector,
    ModulesSelector,
    Node,
    Range,
    RankedSet,
    RankSelector,
    Recipe,
    UnionSet,
    ends,
    steps,
)

Ranking = Callable[[RankedSet], frozenset[int]]
"""The layers that a ranked set selects; asked for only where the set holds one."""


def members(layer_set: LayerSet, layers: int, ranking: Ranking) -> frozenset[int]:
    """The layers of a set that `set_problems` found nothing wrong with. `middle n` starts at layer (L - n) // 2."""
    match layer_set:
        case AllLayers():
            return frozenset(range(layers))
        case Range():
            first, last = ends(layer_set)
            return frozenset(range(first, last + 1))
        case Edge():
            count = layer_set.amount.of(layers)
            start = {"first": 0, "last": layers - count, "middle": (layers - count) // 2}[layer_set.which]
            return frozenset(range(start, start + count))
        case Every():
            start, step = steps(layer_set)
            return frozenset(range(start, layers, step))
        case RankedSet():
            return ranking(layer_set)
        case UnionSet():
            return frozenset().union(*(members(part, layers, ranking) for part in layer_set.sets))
        case InterSet():
            return frozenset.intersection(*(members(part, layers, ranking) for part in layer_set.sets))
        case ExceptSet():
            return members(layer_set.base, layers, ranking) - members(layer_set.removed, layers, ranking)
        case _:
            raise AssertionError("groups are replaced by their sets")


def fixed_members(layer_set: LayerSet, layers: int) -> frozenset[int]:
    """The layers of a set without ranked parts: the same whatever the scores are."""
    return members(layer_set, layers, _no_ranking)


def _no_ranking(ranked: RankedSet) -> frozenset[int]:
    raise AssertionError("a set without ranked parts asks for no ranking")


def parts(layer_set: LayerSet) -> Iterator[LayerSet]:
    """The set and every set in it."""
    yield layer_set
    match layer_set:
        case UnionSet() | InterSet():
            for part in layer_set.sets:
                yield from parts(part)
        case ExceptSet():
            yield from parts(layer_set.base)
            yield from parts(layer_set.removed)


def ranked_sets(layer_set: LayerSet) -> tuple[RankedSet, ...]:
    return tuple(part for part in parts(layer_set) if isinstance(part, RankedSet))


def layer_problems(recipe: Recipe, layers: int) -> tuple[Diagnostic, ...]:
    """Every range, count and step of the recipe's rules that a model of `layers` layers does not have."""
    found: list[Diagnostic] = []
    for rule in recipe.rules:
        match rule.selector:
            case LayersSelector() | ModulesSelector() if rule.selector.layers is not None:
                for part in parts(rule.selector.layers):
                    found += _problems(recipe, part, layers)
            case RankSelector() if rule.selector.amount is not None:
                found += _amount_problems(recipe, rule.selector.amount, layers)
            case _:
                pass
    return tuple(found)


def _problems(recipe: Recipe, part: LayerSet, layers: int) -> list[Diagnostic]:
    match part:
        case Range():
            return _interval_problems(recipe, part, layers)
        case Edge() | RankedSet():
            return _amount_problems(recipe, part.amount, layers)
        case Every() if steps(part)[1] < 1 or not 0 <= steps(part)[0] < layers:
            start, step = steps(part)
            return [
                error(
                    "LB303",
                    f"`every {step} from {start}` selects none of the {layers} layers",
                    recipe.span(part),
                    help=f"the layers are 0-{layers - 1}, and a step is at least 1",
                )
            ]
        case _:
            return []


def _interval_problems(recipe: Recipe, part: Range, layers: int) -> list[Diagnostic]:
    first, last = ends(part)
    top = layers - 1
    if first > last:
        return [
            error(
                "LB301",
                f"the range {first}-{last} is reversed",
                recipe.span(part),
                help=f"`{last}-{first}`",
                fix=_rewrite(recipe, part, f"{last}-{first}", "swap the ends"),
            )
        ]
    if first >= 0 and last <= top:
        return []
    missing = f"{max(first, layers)}-{last}" if max(first, layers) < last else str(last)
    plural = "-" in missing
    message = f"{'layers' if plural else 'layer'} {missing} {'do' if plural else 'does'} not exist"
    if 0 <= first <= top:
        fits = f"{first}-{top}" if first < top else str(top)
        return [
            error(
                "LB300",
                message,
                recipe.span(part),
                help=(f"`{fits}`", f"the model has {layers} layers, 0-{top}"),
            )
        ]
    return [error("LB300", message, recipe.span(part), help=f"the model has {layers} layers, 0-{top}")]


def _amount_problems(recipe: Recipe, amount: Amount, layers: int) -> list[Diagnostic]:
    count = amount.of(layers)
    if 0 <= count <= layers:
        return []
    asked = str(amount.count) if amount.count is not None else f"{100 * (amount.share or 0):g} %"
    return [
        error(
            "LB302",
            f"{asked} of {layers} layers cannot be selected",
            recipe.span(amount),
            help=f"the model has {layers} layers",
        )
    ]


def _rewrite(recipe: Recipe, node: Node, text: str, title: str) -> Fix | None:
    """A fix that replaces a node, unless its text holds a parameter, whose value stands elsewhere."""
    span = recipe.span(node)
    return None if span is None or "$" in span.text or "@" in span.text else Fix(title, (Edit(span, text),))
