"""New weights of a layer as expressions over its old weights: values without tensors, evaluated elsewhere.

An expression gives exact shapes, so that costs are known before anything is computed, and has canonical JSON, so that it
can be part of a plan's digest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.base import Value

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Positive = Annotated[int, Field(ge=1)]


class WeightExpr(Value):
    """Base of all expressions. `node` is their type tag in JSON."""

    # Not strict, because tuples are lists in the JSON of a saved plan.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)

    node: str

    @abstractmethod
    def shape(self, old: Shapes) -> Shape:
        """The result's shape; `old` are the shapes of the layer's old weights. Raises ValueError if shapes do not fit."""

    def parts(self) -> tuple[AnyExpr, ...]:
        """The direct subexpressions."""
        return ()


class Ref(WeightExpr):
    """An old parameter of the layer, by name relative to the layer."""

    node: Literal["ref"] = "ref"
    name: str

    def shape(self, old: Shapes) -> Shape:
        if self.name not in old:
            raise ValueError(f"the layer has no weights called {self.name}")
        return old[self.name]


class Stat(WeightExpr):
    """A statistic of the layer from calibration on the base model (see `lbdsl.statistics`), with its arguments and its
    shape."""

    node: Literal["stat"] = "stat"
    kind: str
    args: tuple[tuple[str, int | str], ...] = ()
    dims: Shape

    @property
    def text(self) -> str:
        """The key that it is cached under, such as `kv_rotations(n=1)`."""
        return self.kind + (f"({', '.join(f'{name}={value}' for name, value in self.args)})" if self.args else "")

    def shape(self, old: Shapes) -> Shape:
        return self.dims


class Largest(Value):
    """The `count` positions of the largest elements of a vector, in ascending order; ties go to the lower position. With
    `others`, the remaining positions. Each position means `size` consecutive indices."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)

    of: AnyExpr
    count: Positive
    size: Positive = 1
    others: bool = False

    def taken(self, length: int, old: Shapes) -> int:
        """The number of selected indices, along an axis of `length`."""
        shape = self.of.shape(old)
        if len(shape) != 1 or shape[0] * self.size != length or self.count > shape[0]:
            raise ValueError(f"{self.count} of {list(shape)} places of {self.size} cannot be taken of {length}")
        return (shape[0] - self.count if self.others else self.count) * self.size

    def indices(self, values: Tensor) -> Tensor:
        """The selected indices; `values` are the elements of the vector."""
        order = values.argsort(descending=True, stable=True)
        places = (order[self.count :] if self.others else order[: self.count]).sort().values
        return (places.unsqueeze(1) * self.size + places.new_tensor(range(self.size))).flatten()


class Take(WeightExpr):
    """The elements of `x` at these indices along an axis, in that order; a single index (not a list) removes the axis."""

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


class Mean(WeightExpr):
    """The mean over each group of `group` adjacent blocks of `size` along an axis."""

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


class Concat(WeightExpr):
    """The concatenation of several tensors along an axis."""

    node: Literal["concat"] = "concat"
    xs: Annotated[tuple[AnyExpr, ...], Field(min_length=1)]
    axis: int

    def shape(self, old: Shapes) -> Shape:
        shapes = [x.shape(old) for x in self.xs]
        if len({_with(shape, self.axis, 0) for shape in shapes}) > 1:
            raise ValueError(f"shapes {shapes} do not go together along axis {self.axis}")
        return _with(shapes[0], self.axis, sum(shape[self.axis] for shape in shapes))

    def parts(self) -> tuple[AnyExpr, ...]:
        return self.xs


class Slice(WeightExpr):
    """The slice of `x` along an axis from `start` to `stop`, exclusive."""

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


class Sum(WeightExpr):
    """The sum of several tensors of the same shape."""

    node: Literal["sum"] = "sum"
    xs: Annotated[tuple[AnyExpr, ...], Field(min_length=1)]

    def shape(self, old: Shapes) -> Shape:
        shapes = [x.shape(old) for x in self.xs]
        if len(set(shapes)) > 1:
            raise ValueError(f"shapes {shapes} cannot be added")
        return shapes[0]

    def parts(self) -> tuple[AnyExpr, ...]:
        return self.xs


class MatMul(WeightExpr):
    """a @ b; b may be a vector. If one of them is [blocks, n, m], the other is split into the same number of blocks along
    the summed dimension, each block is multiplied with its own matrix, and the results are concatenated."""

    node: Literal["matmul"] = "matmul"
    a: AnyExpr
    b: AnyExpr

    def shape(self, old: Shapes) -> Shape:
        a, b = self.a.shape(old), self.b.shape(old)
        if len(a) == 2 and len(b) in (1, 2) and a[1] == b[0]:
            return (a[0], *b[1:])
        if len(a) == 3 and len(b) in (1, 2) and a[0] * a[2] == b[0]:
            return (a[0] * a[1], *b[1:])
        if len(a) == 2 and len(b) == 3 and a[1] == b[0] * b[1]:
            return (a[0], b[0] * b[2])
        raise ValueError(f"matrices of {list(a)} and {list(b)} have no product")

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.a, self.b)


class Transpose(WeightExpr):
    """`x` with its last two axes exchanged."""

    node: Literal["transpose"] = "transpose"
    x: AnyExpr

    def shape(self, old: Shapes) -> Shape:
        *blocks, n, m = self.x.shape(old)
        return (*blocks, m, n)

    def parts(self) -> tuple[AnyExpr, ...]:
        return (self.x,)


class Factor(WeightExpr):
    """One of the two factors of the best rank-`rank` approximation of `x` [n, m]: `first` [n, rank] or `second` [rank, m].

    Each contains the square roots of the singular values; the largest element of each column of `first` is positive.
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


class Init(WeightExpr):
    """Random numbers from a normal distribution with standard deviation `std` and a seed; std=0 gives zeros."""

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
    """The changed layer: its specification, and the expressions of its new weights, by name relative to the layer; other
    weights are the base's."""

    spec: LayerSpec
    weights: tuple[tuple[str, AnyExpr], ...] = ()

    @property
    def makes_weights(self) -> bool:
        """Whether it has weights that the base does not have: new ones, or rounded ones."""
        return bool(self.weights) or self.spec.packs

    @property
    def stats(self) -> tuple[Stat, ...]:
        """The statistics that its new weights are made from."""
        return stats_in(expr for _, expr in self.weights)

    def new_shapes(self, old: Shapes) -> dict[str, Shape]:
        """The shapes of these weights, by name relative to the layer; `old` are those of the base's."""
        shapes = {name: expr.shape(old) for name, expr in self.weights}
        rounded = (weight_of(module, old) for module, storage in self.spec.weights if storage.packs)
        return {name: old[name] for name in rounded} | shapes

    def to_json(self) -> list[Any]:
        return [self.spec.to_json(), {name: expr.model_dump(mode="json") for name, expr in self.weights}]


def weight_of(module: str, names: Container[str]) -> str:
    """The parameter that is a linear map's weight, of those with these names relative to the layer."""
    return module if module in names else f"{module}.weight"


def walk(expr: AnyExpr) -> Iterator[AnyExpr]:
    """`expr` and all its subexpressions."""
    yield expr
    for part in expr.parts():
        yield from walk(part)


def stats_in(exprs: Iterable[AnyExpr]) -> tuple[Stat, ...]:
    """The statistics in the expressions, without duplicates."""
    return tuple(dict.fromkeys(part for expr in exprs for part in walk(expr) if isinstance(part, Stat)))


def stats_by_layer(made: Mapping[int, Iterable[AnyExpr]]) -> dict[int, tuple[Stat, ...]]:
    """The statistics in the new weights of each layer; layers without any are omitted."""
    found = {layer: stats_in(exprs) for layer, exprs in made.items()}
    return {layer: stats for layer, stats in found.items() if stats}


def after(first: Mapping[str, AnyExpr], then: Mapping[str, AnyExpr]) -> dict[str, AnyExpr]:
    """The composition of two sets of new weights: `then` refers to the weights made by `first`, the result to the old."""
    made = {
        name: substituted(expr, lambda part: first.get(part.name) if isinstance(part, Ref) else None)
        for name, expr in then.items()
    }
    return {**first, **made}


def substituted(expr: Any, new: Callable[[Any], AnyExpr | None]) -> Any:
    """The expression with `new` of each part in its place, where that is not None."""
    if isinstance(expr, tuple):
        return tuple(substituted(item, new) for item in expr)
    if not isinstance(expr, Value):
        return expr
    made = new(expr)
    if made is not None:
        return made
    return expr.model_copy(update={name: substituted(getattr(expr, name), new) for name in type(expr).model_fields})


def _with(shape: Shape, axis: int, *sizes: int) -> Shape:
    """`shape` with `sizes` in place of the size of an axis."""
    place = axis % len(shape)
    return (*shape[:place], *sizes, *shape[place + 1 :])
