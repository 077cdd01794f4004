"""What is known while a recipe is resolved: its definitions so far, and the problems found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error, note, warning
from lbdsl.core.registry import nearest
from lbdsl.core.span import Span
from lbdsl.core.units import Unit
from lbdsl.recipe.schema import LayerSet
from lbdsl.syntax import tree
from lbdsl.syntax.wishes import slip, wish

if TYPE_CHECKING:
    from lbdsl.recipe.lets import Expression
    from lbdsl.recipe.params import Declared


@dataclass(frozen=True)
class Constant:
    """A value known from the text alone. A list has its items; only numbers have a unit."""

    value: int | float | str | bool | tuple[Constant, ...]
    unit: Unit
    span: Span
    text: str = ""
    numbers: tuple[tree.Number, ...] = ()
    """The literals it is one of, wherever they stand: its own or its variable's, with those of a parameter's domain."""

    @property
    def kind(self) -> str:
        """`number`, `text`, `boolean` or `list`."""
        if isinstance(self.value, bool):
            return "boolean"
        if isinstance(self.value, str):
            return "text"
        return "list" if isinstance(self.value, tuple) else "number"

    @property
    def shown(self) -> str:
        """How to speak of it: `512 tokens`, `the text "512"`."""
        if self.kind == "number":
            plain = self.unit is Unit.NONE or self.unit.value in self.text or self.text.endswith("%")
            said = f"{self.text} ({self.value:.12g})" if self.text.startswith("$") else f"{self.text or self.value}"
            return said + ("" if plain else f" {self.unit.value}")
        return {"text": f'the text "{self.value}"', "boolean": str(self.value).lower()}.get(self.kind, "a list")


@dataclass(frozen=True)
class SizedSet:
    """A resolved set with the number of its nodes and its depth, both limited."""

    layers: LayerSet
    nodes: int
    depth: int


@dataclass
class Definition:
    """A `$name` or `@name`: where it is defined, and whether anything used it."""

    span: Span
    used: bool = False


@dataclass
class Scope:
    """Lives during one `resolve` call. Functions that fail report here and return None."""

    metric: str = "nll"
    """What `sensitivity` stands for."""

    variables: dict[str, Constant | None] = field(default_factory=dict)
    """None: defined, but its value is wrong and has been reported."""

    expressions: dict[str, Expression] = field(default_factory=dict)
    """Those of the variables that stand for an expression over a model."""

    groups: dict[str, SizedSet | None] = field(default_factory=dict)
    params: dict[str, Declared] = field(default_factory=dict)
    """The parameters among the variables."""

    defined: dict[str, Definition] = field(default_factory=dict)
    below: dict[str, Span] = field(default_factory=dict)
    """Where the recipe defines each `$name` and `@name`, also those further down."""

    judged_on: list[tuple[str, Span]] = field(default_factory=list)
    """The texts that asserts name, as in `ppl_increase("builtin:wikitext")`."""

    diagnostics: list[Diagnostic] = field(default_factory=list)

    def error(
        self,
        code: str,
        message: str,
        span: Span | None,
        *,
        help: str | tuple[str, ...] = (),
        labels: tuple[Label, ...] = (),
        fix: Fix | None = None,
    ) -> None:
        self.diagnostics.append(error(code, message, span, help=help, labels=labels, fix=fix))

    def warning(
        self, code: str, message: str, span: Span | None, *, help: str | tuple[str, ...] = (), fix: Fix | None = None
    ) -> None:
        self.diagnostics.append(warning(code, message, span, help=help, fix=fix))

    def note(self, code: str, message: str, span: Span | None, *, help: str | tuple[str, ...] = ()) -> None:
        self.diagnostics.append(note(code, message, span, help=help))

    def unknown(
        self,
        code: str,
        message: str,
        name: str,
        span: Span,
        choices: Iterable[str],
        what: str,
        sigil: str = "",
        wishes: str = "",
    ) -> None:
        """An unknown name: what may have been meant, and what there is. `wishes` says where it stands, for words that the
        language does not have."""
        later = self.below.get(sigil + name) if sigil else None
        if later is not None and later.source is span.source and later.start > span.start:
            self.error(
                code,
                message,
                span,
                labels=(Label(later, "defined here"),),
                help=f"`{sigil}{name}` is defined below at line {later.start_line_column[0]}; move it up",
            )
            return
        known = sorted(choices)
        listed = f"{what}: " + ", ".join(f"`{sigil}{choice}`" for choice in known) if known else f"there are no {what}"
        hints, meant = meant_words(name, known, wishes, sigil)
        self.error(code, message, span, help=(*hints, listed), fix=replace(span, f"{sigil}{meant}") if meant else None)

    def define(self, sigil: str, name: str, span: Span) -> bool:
        """Note a definition; False, with an error, when the name is taken."""
        before = self.defined.get(sigil + name)
        if before is not None:
            self.error(
                "LB112",
                f"`{sigil}{name}` is defined twice",
                span,
                labels=(Label(before.span, "first defined here"),),
                help="choose another name",
            )
            return False
        self.defined[sigil + name] = Definition(span)
        return True

    def use(self, sigil: str, name: str) -> None:
        definition = self.defined.get(sigil + name)
        if definition is not None:
            definition.used = True


def meant_words(
    name: str, choices: Iterable[str], wishes: str = "", before: str = ""
) -> tuple[tuple[str, ...], str | None]:
    """Help for an unknown name, and what may be written in its place without asking. A word that users wish for is said not
    to be in the language."""
    known = list(choices)
    said = wish(name, wishes) if wishes else None
    if said is not None:
        return (said,), None
    near = nearest(name, known)
    return ((f"did you mean `{before}{near}`?",) if near else ()), slip(name, known)


def replace(span: Span, text: str) -> Fix:
    """The fix that writes `text` in place of `span`."""
    return Fix(f"write `{text}`", (Edit(span, text),))


def at(node: tree.Node) -> tuple[int, int]:
    """The offsets of a tree node in the texts of the recipe laid end to end, for the recipe's `at`."""
    base = node.span.source.base
    return base + node.span.start, base + node.span.end
