"""The members of a layer set for a model of L layers, and the errors of the set for that model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.language import tree as nodes
from lbdsl.language.tree import LayerSet, Node, walk
from lbdsl.recipe.schema import Amount, ends, steps

Ranking = Callable[[nodes.RankedSet], frozenset[int]]
"""Returns the layers that a ranked set selects; called only if the set contains one."""


def members(layer_set: LayerSet, layers: int, ranking: Ranking | None = None) -> frozenset[int]:
    """The layers of a set for which `set_problems` found no errors. `middle n` starts at layer (L - n) // 2."""
    match layer_set:
        case nodes.AllLayers():
            return frozenset(range(layers))
        case nodes.Range():
            first, last = ends(layer_set)
            return frozenset(range(first, last + 1))
        case nodes.Edge():
            count = layer_set.amount.of(layers)
            start = {"first": 0, "last": layers - count, "middle": (layers - count) // 2}[layer_set.which]
            return frozenset(range(start, start + count))
        case nodes.Every():
            start, step = steps(layer_set)
            return frozenset(range(start, layers, step))
        case nodes.RankedSet():
            assert ranking is not None, "only a set without ranked parts is known without scores"
            return ranking(layer_set)
        case nodes.UnionSet():
            return frozenset().union(*(members(part, layers, ranking) for part in layer_set.sets))
        case nodes.InterSet():
            return frozenset.intersection(*(members(part, layers, ranking) for part in layer_set.sets))
        case nodes.ExceptSet():
            return members(layer_set.base, layers, ranking) - members(layer_set.removed, layers, ranking)
        case _:
            raise AssertionError("groups are replaced by their sets")


def ranked_sets(layer_set: LayerSet | None) -> tuple[nodes.RankedSet, ...]:
    return () if layer_set is None else tuple(part for part in walk(layer_set) if isinstance(part, nodes.RankedSet))


def set_problems(selector: Node, layers: int) -> Iterator[Diagnostic]:
    """Every range, count and step of a rule's selector that a model of `layers` layers does not have."""
    for part in walk(selector):
        match part:
            case nodes.Range() if ends(part)[1] >= layers:
                (first, last), top = ends(part), layers - 1
                missing = max(first, layers)
                message = f"layers {missing}-{last} do not exist" if missing < last else f"layer {last} does not exist"
                fits = (f"`{first}-{top}`" if first < top else f"`{top}`",) if first <= top else ()
                yield error("LB300", message, part.span, help=(*fits, f"the model has {layers} layers, 0-{top}"))
            case Amount() if part.of(layers) > layers:
                message = f"{part.of(layers)} of {layers} layers cannot be selected"
                yield error("LB302", message, part.span, help=f"the model has {layers} layers")
            case nodes.Every() if steps(part)[0] >= layers:
                start, step = steps(part)
                message = f"`every {step} from {start}` selects none of the {layers} layers"
                yield error("LB303", message, part.span, help=f"the layers are 0-{layers - 1}, and a step is at least 1")
