"""Weights of a layer as expressions over the weights that it had: values without tensors, evaluated elsewhere.

An expression is exact about shapes, so that costs are known before anything is computed, and canonical as JSON, so that it
is part of a plan's digest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, model_validator

from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.base import Value

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Positive = Annotated[int, Field(ge=1)]


class Expr(Value):
    """Base of all expressions. `node` tells them apart in JSON."""

    # Lists of a saved plan are tuples here.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)

    node: str

    @abstractmethod
    def shape(self, old: Shapes) -> Shape:
        """The result's shape; `old` are the shapes of what `Ref` and `Stat` name. ValueError where they do not fit."""

    def parts(self) -> tuple[AnyExpr, ...]:
        """The expressions in it."""
        return ()


class Ref(Expr):
    """A parameter that the layer had, by name below the layer."""

    node: Literal["ref"] = "ref"
    name: str

    def shape(self, old: Shapes) -> Shape:
        if self.name not in old:
            raise ValueError(f"the layer has no weights called {self.name}")
        return old[self.name]


class Stat(Expr):
    """What calibration on the base gave for the layer: a statistic (see `lbdsl.statistics`) with its arguments, and the
    shape that it has."""

    node: Literal["stat"] = "stat"
    kind: str
    args: tuple[tuple[str, int | str], ...] = ()
    dims: Shape

    @property
    def text(self) -> str:
        """`kv_rotations(n=1)`: under what it is kept."""
        return self.kind + (f"({', '.join(f'{name}={value}' for name, value in self.args)})" if self.args else "")

    def shape(self, old: Shapes) -> Shape:
        return self.dims


class Largest(Value):
    """The `count` places where a vector is largest, in ascending order; ties go to the lower place. With `others`, the
    places that are left. A place stands for `size` neighbouring indices."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)

    of: AnyExpr
    count: Positive
    size: Positive = 1
    others: bool = False

    def taken(self, length: int, old: Shapes) -> int:
        """How many indices it stands for, of `length`."""
        shape = self.of.shape(old)
        if len(shape) != 1 or shape[0] * self.size != length or self.count > shape[0]:
            raise ValueError(f"{self.count} of {list(shape)} places of {self.size} cannot be taken of {length}")
        return (shape[0] - self.count if self.others else self.count) * self.size

    def indices(self, values: Tensor) -> Tensor:
        """The indices, where `values` are those of the vector."""
        order = values.argsort(descending=True, stable=True)
        places = (order[self.count :] if self.others else order[: self.count]).sort().values
        return (places.unsqueeze(1) * self.size + places.new_tensor(range(self.size))).flatten()


class Take(Expr):
    """Some of `x` along an axis, in the order of the indices; one index that is no list takes the axis away."""

    node: Literal["take"] = "take"
    x: AnyExpr
    axis: int
    indices: tuple[int, ...] | int | Largest

    def shape(self, old: Shapes) -> Shape:
        shape, indices = self.x.shape(old), self.indices
        if isinstance(indices, Largest):
            return _with(shape, self.axis, indices.taken(shape[self.axis], old))
        if any(not 0 <= index < shape[self.axis] for index in ((indices,) if isinstance(indices, int) else indices)):
            raise ValueError(f"an index is not below {shape[self.axis]}")
        return _with(shape, self.axis, *(() if isinstance(indices, int) else (len(indices),)))

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.x, self.indices.of) if isinstance(self.indices, Largest) else (self.x,)


class Mean(Expr):
    """The mean over `group` neighbouring blocks of `size` along an axis."""

    node: Literal["mean"] = "mean"
    x: AnyExpr
    axis: int
    size: Positive
    group: Positive

    def shape(self, old: Shapes) -> Shape:
        shape = self.x.shape(old)
        if shape[self.axis] % (self.size * self.group):
            raise ValueError(f"{shape[self.axis]} are not blocks of {self.size} in groups of {self.group}")
        return _with(shape, self.axis, shape[self.axis] // self.group)

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.x,)


class Concat(Expr):
    """Several one after the other along an axis."""

    node: Literal["concat"] = "concat"
    xs: tuple[AnyExpr, ...]
    axis: int

    @model_validator(mode="after")
    def _some(self) -> Concat:
        if not self.xs:
            raise ValueError("nothing to put together")
        return self

    def shape(self, old: Shapes) -> Shape:
        shapes = [x.shape(old) for x in self.xs]
        if len({_with(shape, self.axis, 0) for shape in shapes}) > 1:
            raise ValueError(f"shapes {shapes} do not go together along axis {self.axis}")
        return _with(shapes[0], self.axis, sum(shape[self.axis] for shape in shapes))

    def parts(self) -> tuple[AnyExpr, ...]:
        return self.xs


class Slice(Expr):
    """`start` to `stop` - 1 of `x` along an axis."""

    node: Literal["slice"] = "slice"
    x: AnyExpr
    axis: int
    start: int
    stop: int

    def shape(self, old: Shapes) -> Shape:
        shape = self.x.shape(old)
        if not 0 <= self.start < self.stop <= shape[self.axis]:
            raise ValueError(f"{self.start} to {self.stop} is not within {shape[self.axis]}")
        return _with(shape, self.axis, self.stop - self.start)

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.x,)


class Sum(Expr):
    """Several of one shape, added."""

    node: Literal["sum"] = "sum"
    xs: Annotated[tuple[AnyExpr, ...], Field(min_length=1)]

    def shape(self, old: Shapes) -> Shape:
        shapes = [x.shape(old) for x in self.xs]
        if len(set(shapes)) > 1:
            raise ValueError(f"shapes {shapes} cannot be added")
        return shapes[0]

    def parts(self) -> tuple[AnyExpr, ...]:
        return self.xs


class MatMul(Expr):
    """a @ b. Where one of them is [blocks, n, m], the other one is cut into as many blocks along the dimension that is
    summed over, each is multiplied with its own matrix, and the results stand one after the other."""

    node: Literal["matmul"] = "matmul"
    a: AnyExpr
    b: AnyExpr

    def shape(self, old: Shapes) -> Shape:
        a, b = self.a.shape(old), self.b.shape(old)
        if len(a) == len(b) == 2 and a[1] == b[0]:
            return (a[0], b[1])
        if len(a) == 3 and len(b) in (1, 2) and a[0] * a[2] == b[0]:
            return (a[0] * a[1], *b[1:])
        if len(a) == 2 and len(b) == 3 and a[1] == b[0] * b[1]:
            return (a[0], b[0] * b[2])
        raise ValueError(f"matrices of {list(a)} and {list(b)} have no product")

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.a, self.b)


class Transpose(Expr):
    """`x` with its last two axes exchanged."""

    node: Literal["transpose"] = "transpose"
    x: AnyExpr

    def shape(self, old: Shapes) -> Shape:
        *blocks, n, m = self.x.shape(old)
        return (*blocks, m, n)

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.x,)


class Factor(Expr):
    """One of two matrices whose product is closest to `x` [n, m] in rank `rank`: `first` [n, rank] or `second` [rank, m].

    Each has the square roots of the singular values; the largest number of a column of `first` is positive.
    Source: Eckart and Young, The approximation of one matrix by another of lower rank (1936).
    """

    node: Literal["factor"] = "factor"
    x: AnyExpr
    rank: Positive
    which: Literal["first", "second"]

    def shape(self, old: Shapes) -> Shape:
        n, m = self.x.shape(old)
        if self.rank > min(n, m):
            raise ValueError(f"[{n}, {m}] has no rank of {self.rank}")
        return (n, self.rank) if self.which == "first" else (self.rank, m)

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.x,)


class Init(Expr):
    """Numbers of a normal distribution with this standard deviation, from a seed; 0 gives zeros."""

    node: Literal["init"] = "init"
    dims: Shape
    std: float
    seed: int = 0

    def shape(self, old: Shapes) -> Shape:
        return self.dims


AnyExpr = Annotated[
    Ref | Stat | Take | Mean | Concat | Slice | Sum | MatMul | Transpose | Factor | Init,
    Field(discriminator="node"),
]


class LayerChange(NamedTuple):
    """What a layer becomes: its specification, and how those of its weights are made, by name below the layer, that are not
    the base's."""

    spec: LayerSpec
    weights: tuple[tuple[str, AnyExpr], ...] = ()

    def to_json(self) -> list[Any]:
        return [self.spec.to_json(), {name: expr.model_dump(mode="json") for name, expr in self.weights}]


def walk(expr: AnyExpr) -> Iterator[AnyExpr]:
    """`expr` and everything in it."""
    yield expr
    for part in expr.parts():
        yield from walk(part)


def names_in(expr: AnyExpr) -> tuple[str, ...]:
    """The parameters that it is made from."""
    return tuple(dict.fromkeys(part.name for part in walk(expr) if isinstance(part, Ref)))


def stats_in(exprs: Iterable[AnyExpr]) -> tuple[Stat, ...]:
    """The statistics that they are made from, each once."""
    return tuple(dict.fromkeys(part for expr in exprs for part in walk(expr) if isinstance(part, Stat)))


def stats_by_layer(made: Mapping[int, Iterable[AnyExpr]]) -> dict[int, tuple[Stat, ...]]:
    """The statistics that the new weights of layers are made from; layers without any are left out."""
    found = {layer: stats_in(exprs) for layer, exprs in made.items()}
    return {layer: stats for layer, stats in found.items() if stats}


def after(first: Mapping[str, AnyExpr], then: Mapping[str, AnyExpr]) -> dict[str, AnyExpr]:
    """Two sets of new weights as one: `then` is over the weights that `first` made, the result over those before."""
    return {**first, **{name: _substituted(expr, first) for name, expr in then.items()}}


def _substituted(expr: Any, made: Mapping[str, AnyExpr]) -> Any:
    if isinstance(expr, Ref):
        return made.get(expr.name, expr)
    if isinstance(expr, tuple):
        return tuple(_substituted(item, made) for item in expr)
    if isinstance(expr, Value):
        return expr.model_copy(update={name: _substituted(getattr(expr, name), made) for name in type(expr).model_fields})
    return expr


def _with(shape: Shape, axis: int, *sizes: int) -> Shape:
    """`shape` with `sizes` in place of that of an axis."""
    place = axis % len(shape)
    return (*shape[:place], *sizes, *shape[place + 1 :])
