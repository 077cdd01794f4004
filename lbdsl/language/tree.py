"""The syntax tree: what was written, and where. Names are not resolved here.

Every node has the span of its text, which comparisons ignore: two trees are equal if they differ only in spans. Chains
(`a + b - c`, `a and b`) are flat.

Nodes are like `dataclass(frozen=True)`, but share one `__init__`, `__eq__` and `__repr__`: generating these for fifty
classes at import takes 15 ms, a tenth of the time that `check` may take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, dataclass_transform

from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit


@dataclass_transform(frozen_default=True)
class NodeFields:
    """A frozen record of the fields that its class annotates, in order. Comparisons ignore the first one."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = (*cls._fields, *(name for name in cls.__annotations__ if name not in cls._fields))

    def __init__(self, *values: Any) -> None:
        self.__dict__.update(zip(type(self)._fields, values, strict=True))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def _key(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in type(self)._fields[1:])

    def replace(self, **changes: Any) -> Self:
        """The same node with other values of some fields."""
        return type(self)(*(vars(self) | changes).values())

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, NodeFields) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in type(self)._fields[1:])
        return f"{type(self).__name__}({fields})"


class Node(NodeFields):
    """Base of tree nodes. `span` is the place of a node in the text; equality ignores it."""

    span: Span


class Ident(Node):
    """A bare name, a key, or a keyword that carries meaning (`lowest`, `heal`)."""

    sigil = ""
    name: str


# Expressions ---------------------------------------------------------------------------------------------------------


class Number(Node):
    """`4Ki`, `50%`, `10M tokens`, `0.1`: `value` has prefixes applied (50% is 0.5)."""

    value: int | float
    unit: Unit
    text: str


class String(Node):
    value: str


class Pattern(Node):
    """`~"regex"`, backslashes as written."""

    value: str


class Variable(Node):
    """`$name`, without its sigil."""

    sigil = "$"
    name: str


class Dotted(Node):
    """`model.layers`."""

    name: str


class Arg(Node):
    """`value` or `key=value`."""

    key: Ident | None
    value: Expr


class Call(Node):
    """`name` (`args` is None) or `name(...)`: an action, a metric, a function or a plain word."""

    name: Ident
    args: tuple[Arg, ...] | None


class Items(Node):
    """`[a, b]`."""

    items: tuple[Expr, ...]


class Operator(Node):
    """The operator of a comparison; `not in` is one operator."""

    text: str


class Compare(Node):
    operands: tuple[Expr, ...]
    ops: tuple[Operator, ...]


class Logic(Node):
    """`op` is `and` or `or`."""

    op: str
    operands: tuple[Expr, ...]


class Not(Node):
    operand: Expr


class Arithmetic(Node):
    """A chain of `+` and `-`, or one of `*` and `/`."""

    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


class Minus(Node):
    operand: Expr


class Meaning(Node):
    """A resolved name or call, which replaces it in the tree. Its subclasses are in `lbdsl.recipe.schema`."""


Expr = Number | String | Pattern | Variable | Dotted | Call | Items | Compare | Logic | Not | Arithmetic | Minus | Meaning


# Sets of layers ------------------------------------------------------------------------------------------------------


class AllLayers(Node):
    """`all`."""


class Point(Node):
    value: Number | Variable


class Range(Node):
    """`4-7`, both ends included."""

    first: Number | Variable
    last: Number | Variable


class Edge(Node):
    """`first 4`, `last 10%`, `middle $n`; once resolved, `amount` is a `lbdsl.recipe.schema.Amount`."""

    which: str
    amount: Any


class Every(Node):
    step: Number
    start: Number | None


class RankedSet(Node):
    """`lowest 6 by nll`; once resolved, `by` is a `lbdsl.recipe.schema.Score`."""

    direction: str
    amount: Any
    by: Any


class GroupRef(Node):
    """`@name`, without its sigil."""

    sigil = "@"
    name: str


class UnionSet(Node):
    sets: tuple[LayerSet, ...]


class InterSet(Node):
    sets: tuple[LayerSet, ...]


class ExceptSet(Node):
    base: LayerSet
    removed: LayerSet


class NotSet(Node):
    operand: LayerSet


LayerSet = AllLayers | Point | Range | Edge | Every | RankedSet | GroupRef | UnionSet | InterSet | ExceptSet | NotSet


# Statements ----------------------------------------------------------------------------------------------------------


class Version(Node):
    number: Number


class RecipeName(Node):
    name: String


class Requires(Node):
    expr: Expr


class Interval(Node):
    """A parameter's domain `low..high`, both ends included."""

    low: Expr
    high: Expr


class Choice(Node):
    """A parameter's domain `{a, b, c}`."""

    options: tuple[Expr, ...]


class Param(Node):
    name: Variable
    type: Ident
    domain: Interval | Choice | None
    default: Expr | None


class Let(Node):
    name: Variable
    value: Expr


class Group(Node):
    name: GroupRef
    layers: LayerSet


class Include(Node):
    path: String
    sha256: String | None


class Setting(Node):
    key: Ident
    value: Expr


class Stage(Node):
    """`stage match { ... }`, in a block."""

    name: Ident
    settings: tuple[Setting, ...]


class Block(Node):
    """`measure { ... }`, `heal { ... }`, `eval { ... }`."""

    kind: Ident
    items: tuple[Setting | Stage, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(item for item in self.items if isinstance(item, Setting))

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(item for item in self.items if isinstance(item, Stage))


class Assertion(Node):
    expr: Expr


class ElseSelector(Node):
    """`else`."""


class WhereSelector(Node):
    where: Expr


class LayersSelector(Node):
    layers: LayerSet
    where: Expr | None


class ModulesSelector(Node):
    """Module names as regular expressions or globs, within `layers` (None: all)."""

    patterns: tuple[Pattern | String, ...]
    layers: LayerSet | None
    where: Expr | None


class While(Node):
    """A part of `RankSelector` while it is parsed."""

    expr: Expr


class RankSelector(Node):
    """`lowest [amount] [of rest] by metric [until constraint | while constraint]`."""

    direction: str
    amount: Any
    of_rest: bool
    by: Any
    until: Any
    while_: Any


Selector = ElseSelector | WhereSelector | LayersSelector | ModulesSelector | RankSelector


class RuleStatement(Node):
    selector: Selector
    actions: tuple[Call, ...]
    because: String | None


class Choose(Node):
    """`choose for layers SET among ACTION, ... minimizing METRIC subject to CONDITION, ...`."""

    layers: LayerSet
    among: tuple[tuple[Call, ...], ...]
    minimizing: Call
    subject_to: tuple[Expr, ...]


Statement = Version | RecipeName | Requires | Param | Let | Group | Include | Block | Assertion | RuleStatement | Choose


@dataclass(frozen=True)
class File:
    """A whole file: the statements that parsed, in order. `comments` are the spans of comments, `tokens` counts tokens."""

    source: Source = field(compare=False, repr=False)
    statements: tuple[Statement, ...]
    comments: tuple[Span, ...] = field(compare=False, default=())
    tokens: int = field(compare=False, default=0)


def parts_of(node: Node) -> Iterator[Node]:
    """The nodes directly in a node, from left to right, except the arguments of a call."""
    for value in vars(node).values() if not isinstance(node, Call) else ():
        yield from (part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, Node))


def walk(node: Node) -> Iterator[Node]:
    """`node` and every node in it, in the order of `parts_of`. The parser limits the nesting."""
    yield node
    for part in parts_of(node):
        yield from walk(part)
