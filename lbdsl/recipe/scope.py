"""The state of resolving a recipe: its definitions so far, and the problems found.

A resolver function returns its node with names replaced, or reports an error and raises `Unresolved`. `each` and
`rebuilt` resolve several parts: they continue after a failure, so that every error is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, NoReturn, ParamSpec, TypeVar

from lbdsl.core.diagnostic import Diagnostic, Label, error
from lbdsl.core.nearest import nearest
from lbdsl.core.span import Span
from lbdsl.language import tree
from lbdsl.language.tree import Items, LayerSet, Number, String
from lbdsl.language.words import slip, ticked, wish
from lbdsl.recipe.schema import Boolean

T = TypeVar("T")
P = ParamSpec("P")
N = TypeVar("N", bound=tree.Node)
S = TypeVar("S")

Plain = Number | String | Boolean
"""A constant that is not a list."""

Constant = Plain | Items
"""A value known from the text alone, with the span of its use. The items of a list are constants, too."""

Name = tree.Ident | tree.Variable | tree.GroupRef
"""A name as it is written, with its span."""


class Unresolved(Exception):
    """A part of the recipe has an error, which has been reported."""


def attempt(resolve: Callable[P, T], *args: P.args, **options: P.kwargs) -> T | None:
    """The result of `resolve`; None when it fails."""
    try:
        return resolve(*args, **options)
    except Unresolved:
        return None


def each(resolve: Callable[[S], T], parts: Iterable[S]) -> tuple[T, ...]:
    """Every part resolved. All of them are tried before a failure is raised."""
    done: list[T] = []
    failed = False
    for part in parts:
        try:
            done.append(resolve(part))
        except Unresolved:
            failed = True
    if failed:
        raise Unresolved
    return tuple(done)


def rebuilt(node: N, **resolvers: Callable[[Any], Any]) -> N:
    """The node with some of its fields resolved; a field is a node, a tuple of nodes, or None."""

    def resolved(name: str) -> Any:
        value = getattr(node, name)
        if value is None:
            return None
        return each(resolvers[name], value) if isinstance(value, tuple) else resolvers[name](value)

    return node.replace(**dict(zip(resolvers, each(resolved, resolvers), strict=True)))


class Named(NamedTuple, Generic[T]):
    """What a name stands for, and the number and the nesting of its nodes, with names in it expanded. Both are limited."""

    node: T
    size: int
    depth: int


def size_of(node: tree.Node, named: Mapping[str, Named[Any] | None], kinds: Any) -> tuple[int, int]:
    """The number of nodes of some kinds that are nested in each other, and their nesting, with names expanded."""
    known = named.get(node.name) if isinstance(node, tree.Variable | tree.GroupRef) else None
    if known is not None:
        return known.size, known.depth
    sizes = [size_of(part, named, kinds) for part in tree.parts_of(node) if isinstance(part, kinds)]
    return 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=-1)


@dataclass
class Findings:
    """The problems found so far."""

    diagnostics: list[Diagnostic] = field(default_factory=list, kw_only=True)

    def error(self, code: str, message: str, span: Span | None, **details: Any) -> None:
        self.diagnostics.append(error(code, message, span, **details))

    def fail(self, code: str, message: str, span: Span | None, **details: Any) -> NoReturn:
        """Report an error and raise `Unresolved`."""
        self.error(code, message, span, **details)
        raise Unresolved


MOST_GUESSED = 50
"""Problems of a recipe after which no more words are guessed: each takes a look at all names that there are."""


@dataclass
class Scope(Findings):
    """The definitions and problems of one recipe that is being resolved."""

    metric: str = "nll"
    """What `sensitivity` stands for."""

    variables: dict[str, Constant | None] = field(default_factory=dict)
    """None: defined, but its value is wrong and has been reported."""

    literals: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    """The number literals that a variable's value may come from: that of its definition, and those of a domain."""

    expressions: dict[str, Named[tree.Expr]] = field(default_factory=dict)
    """The variables that stand for an expression on a model."""

    groups: dict[str, Named[LayerSet] | None] = field(default_factory=dict)
    defined: dict[str, Span] = field(default_factory=dict)
    """Where each `$name` and `@name` so far is defined."""

    used: set[str] = field(default_factory=set)
    below: dict[str, Span] = field(default_factory=dict)
    """Where the recipe defines each `$name` and `@name`, including those further down."""

    expanded: int = 0
    """Parts of expressions that names stood for so far."""

    warned: set[Span] = field(default_factory=set)
    """Number literals that a warning is about."""

    judged_on: list[tuple[str, Span]] = field(default_factory=list)
    """The texts that asserts name, as in `ppl_increase("builtin:wikitext")`."""

    def unknown(self, code: str, message: str, node: Name, choices: Iterable[str], what: str, wishes: str = "") -> NoReturn:
        """Fail for an unknown name, with suggestions and the known names; `wishes` is its place in `words.wishes`."""
        sigil, span = node.sigil, node.span
        later = self.below.get(sigil + node.name) if sigil else None
        if later is not None and later.source is span.source and later.start > span.start:
            hint = f"`{sigil}{node.name}` is defined below at line {later.start_line_column[0]}; move it up"
            self.fail(code, message, span, labels=Label(later, "defined here"), help=hint)
        known = sorted(choices)
        listed = f"{what}: {ticked(sigil + choice for choice in known)}" if known else f"there are no {what}"
        few = len(self.diagnostics) < MOST_GUESSED
        hints, meant = meant_words(node.name, known, wishes, sigil) if few else ((), None)
        self.fail(code, message, span, help=(*hints, listed), write=f"{sigil}{meant}" if meant else None)

    def define(self, node: tree.Variable | tree.GroupRef) -> bool:
        """Record a definition; False, with an error, when the name is already defined."""
        name = node.sigil + node.name
        first = self.defined.setdefault(name, node.span)
        if first is not node.span:
            labels = Label(first, "first defined here")
            self.error("LB112", f"`{name}` is defined twice", node.span, labels=labels, help="choose another name")
        return first is node.span


def meant_words(
    name: str, choices: Iterable[str], wishes: str = "", before: str = ""
) -> tuple[tuple[str, ...], str | None]:
    """Help for an unknown name, and the name that a fix may write in its place. For a word of another tool that is no slip
    of the pen, the help is its answer in `lbdsl.language.words`, without a fix."""
    known = list(choices)
    said = wish(name, wishes) if wishes else None
    if said is not None and slip(name, known) is None:
        return (said,), None
    near = nearest(name, known)
    return ((f"did you mean `{before}{near}`?",) if near else ()), slip(name, known)
