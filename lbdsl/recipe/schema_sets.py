"""Sets of layers of a resolved recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lbdsl.recipe.schema_expr import Node, Score


class Amount(Node):
    """A count of layers, or a share of all the model's layers, rounded down."""

    count: int | None = None
    share: float | None = None

    def of(self, layers: int) -> int:
        """How many of `layers` layers; a share is floored."""
        if self.count is not None:
            return self.count
        assert self.share is not None
        return int(self.share * layers + 1e-9)


class AllLayers(Node):
    node: Literal["all"] = "all"


class Interval(Node):
    """Layers `first` to `last`, both included. Never expanded before the model is known."""

    node: Literal["interval"] = "interval"
    first: int
    last: int


class Edge(Node):
    """`first 4`, `last 10%`, `middle 6`."""

    node: Literal["edge"] = "edge"
    which: Literal["first", "last", "middle"]
    amount: Amount


class Every(Node):
    """`every 4 from 1`: 1, 5, 9, ..."""

    node: Literal["every"] = "every"
    step: int
    start: int = 0


class RankedSet(Node):
    """`lowest 4 by nll` as a set: over all layers, claimed or not."""

    node: Literal["ranked"] = "ranked"
    direction: Literal["lowest", "highest"]
    amount: Amount
    by: Score


class AnyOf(Node):
    node: Literal["union"] = "union"
    sets: tuple[LayerSet, ...]


class BothOf(Node):
    node: Literal["intersection"] = "intersection"
    sets: tuple[LayerSet, ...]


class Except(Node):
    """`base except removed`; `not removed` is `all except removed`."""

    node: Literal["except"] = "except"
    base: LayerSet
    removed: LayerSet


LayerSet = Annotated[AllLayers | Interval | Edge | Every | RankedSet | AnyOf | BothOf | Except, Field(discriminator="node")]
