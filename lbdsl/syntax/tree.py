"""The syntax tree: what was written, and where. Names are not looked up here.

Every node carries the span of its text, which does not take part in comparisons: two trees are equal when they say the
same. Chains (`a + b - c`, `a and b`) are flat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit


@dataclass(frozen=True)
class Node:
    """Base of all nodes."""

    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Ident(Node):
    """A bare name, a key, or a keyword that carries meaning (`lowest`, `heal`)."""

    name: str


# Expressions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number(Node):
    """`4Ki`, `50%`, `10M tokens`, `0.1`: `value` has prefixes applied (50% is 0.5); an int where it is one."""

    value: int | float
    unit: Unit
    text: str


@dataclass(frozen=True)
class String(Node):
    value: str


@dataclass(frozen=True)
class Pattern(Node):
    """`~"regex"`, backslashes as written."""

    value: str


@dataclass(frozen=True)
class Variable(Node):
    """`$name`, without its sigil."""

    name: str


@dataclass(frozen=True)
class Dotted(Node):
    """`model.layers`."""

    name: str


@dataclass(frozen=True)
class Arg(Node):
    """`value` or `key=value`."""

    key: Ident | None
    value: Expr


@dataclass(frozen=True)
class Call(Node):
    """`name` (`args` is None) or `name(...)`: an action, a metric, a function or a plain word."""

    name: Ident
    args: tuple[Arg, ...] | None


@dataclass(frozen=True)
class Items(Node):
    """`[a, b]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Operator(Node):
    """A comparison's operator; `not in` is one."""

    text: str


@dataclass(frozen=True)
class Compare(Node):
    operands: tuple[Expr, ...]
    ops: tuple[Operator, ...]


@dataclass(frozen=True)
class Logic(Node):
    """`op` is `and` or `or`."""

    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Not(Node):
    operand: Expr


@dataclass(frozen=True)
class Arithmetic(Node):
    """A chain of `+` and `-`, or one of `*` and `/`."""

    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Minus(Node):
    operand: Expr


Expr = (Number | String | Pattern | Variable | Dotted | Call | Items | Compare | Logic | Not | Arithmetic | Minus)


# Sets of layers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AllLayers(Node):
    pass


@dataclass(frozen=True)
class Point(Node):
    value: Number | Variable


@dataclass(frozen=True)
class Range(Node):
    """`4-7`, both ends included."""

    first: Number | Variable
    last: Number | Variable


@dataclass(frozen=True)
class Edge(Node):
    """`first 4`, `last 10%`, `middle $n`."""

    which: str
    amount: Number | Variable


@dataclass(frozen=True)
class Every(Node):
    step: Number
    start: Number | None


@dataclass(frozen=True)
class RankedSet(Node):
    direction: str
    amount: Number | Variable
    by: Call


@dataclass(frozen=True)
class GroupRef(Node):
    """`@name`, without its sigil."""

    name: str


@dataclass(frozen=True)
class UnionSet(Node):
    sets: tuple[LayerSet, ...]


@dataclass(frozen=True)
class InterSet(Node):
    sets: tuple[LayerSet, ...]


@dataclass(frozen=True)
class ExceptSet(Node):
    base: LayerSet
    removed: LayerSet


@dataclass(frozen=True)
class NotSet(Node):
    operand: LayerSet


LayerSet = (AllLayers | Point | Range | Edge | Every | RankedSet | GroupRef | UnionSet | InterSet | ExceptSet | NotSet)


# Statements ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version(Node):
    number: Number


@dataclass(frozen=True)
class RecipeName(Node):
    name: String


@dataclass(frozen=True)
class Requires(Node):
    expr: Expr


@dataclass(frozen=True)
class Interval(Node):
    """A parameter's domain `low..high`, both ends included."""

    low: Expr
    high: Expr


@dataclass(frozen=True)
class Choice(Node):
    """A parameter's domain `{a, b, c}`."""

    options: tuple[Expr, ...]


@dataclass(frozen=True)
class Param(Node):
    name: Variable
    type: Ident
    domain: Interval | Choice | None
    default: Expr | None


@dataclass(frozen=True)
class Let(Node):
    name: Variable
    value: Expr


@dataclass(frozen=True)
class Group(Node):
    name: GroupRef
    layers: LayerSet


@dataclass(frozen=True)
class Include(Node):
    path: String
    sha256: String | None


@dataclass(frozen=True)
class Setting(Node):
    key: Ident
    value: Expr


@dataclass(frozen=True)
class Block(Node):
    """`measure { ... }`, `heal { ... }`, `eval { ... }`."""

    kind: Ident
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Assertion(Node):
    expr: Expr


@dataclass(frozen=True)
class Vary(Node):
    name: Variable
    domain: Interval | Choice


@dataclass(frozen=True)
class Objective(Node):
    """`direction` is `minimize` or `maximize`."""

    direction: str
    expr: Expr


@dataclass(frozen=True)
class Subject(Node):
    expr: Expr


@dataclass(frozen=True)
class Search(Node):
    items: tuple[Vary | Objective | Subject | Setting, ...]


@dataclass(frozen=True)
class ElseSelector(Node):
    pass


@dataclass(frozen=True)
class WhereSelector(Node):
    where: Expr


@dataclass(frozen=True)
class LayersSelector(Node):
    layers: LayerSet
    where: Expr | None


@dataclass(frozen=True)
class ModulesSelector(Node):
    """Module names as regular expressions or globs, within `layers` (None: all)."""

    patterns: tuple[Pattern | String, ...]
    layers: LayerSet | None
    where: Expr | None


@dataclass(frozen=True)
class RankSelector(Node):
    """`lowest [amount] [of rest] by metric [until constraint]`."""

    direction: str
    amount: Number | Variable | None
    of_rest: bool
    by: Call
    until: Expr | None


Selector = ElseSelector | WhereSelector | LayersSelector | ModulesSelector | RankSelector


@dataclass(frozen=True)
class RuleStatement(Node):
    selector: Selector
    actions: tuple[Call, ...]
    because: String | None


Statement = (Version | RecipeName | Requires | Param | Let | Group | Include | Block | Assertion | Search
             | RuleStatement)


@dataclass(frozen=True)
class File:
    """A whole recipe: the statements that parsed, in order. `comments` are the spans of comments."""

    source: Source = field(compare=False, repr=False)
    statements: tuple[Statement, ...]
    comments: tuple[Span, ...] = field(compare=False, default=())
