"""The analysis of one version of a recipe's text. Each part is computed lazily and cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from lbdsl.api.checking import on_model
from lbdsl.core.diagnostic import Diagnosed
from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit
from lbdsl.cost.facts import ModelFacts
from lbdsl.editor.cursor import Cursor, cursor_at
from lbdsl.language import tree
from lbdsl.language.layout import split_statements
from lbdsl.language.lexer import Lexed, Token, lex, one_line
from lbdsl.language.parse import parse
from lbdsl.language.parser import Failure, Parser
from lbdsl.recipe.load import recipe_from_text, sensitivity
from lbdsl.recipe.reading import FolderReader, Whole
from lbdsl.recipe.schema import Recipe
from lbdsl.recipe.scope import Constant, Scope
from lbdsl.recipe.variables import resolve_let, resolve_param

_DEFINING = {"PARAM": "VAR", "LET": "VAR", "GROUP": "REF"}
_NAMING = frozenset({*_DEFINING, "INCLUDE", "MEASURE"})


@dataclass(frozen=True)
class Definition:
    """Where a `$name` or `@name` is defined. `detail` is its value or set on one line, `page` all of it in Markdown."""

    span: Span
    detail: str
    page: str

    @property
    def is_included(self) -> bool:
        """Whether it is defined in another file."""
        return self.span.source.base > 0


class Analysis:
    """The analysis of one text. `name` is its name in messages; `path` is its file, if it has one, which its includes are
    relative to; with `facts` of a model, the recipe is checked against that model too."""

    def __init__(self, text: str, name: str = "<recipe>", path: Path | None = None, facts: ModelFacts | None = None):
        self.text = text
        self.name = name
        self.path = path
        self.facts = facts
        self.source = Source(name, text)
        self._cursors: dict[tuple[int, bool], Cursor | None] = {}
        self._reader = FolderReader(path) if path is not None and "\0" not in str(path) else None

    @cached_property
    def lexed(self) -> Lexed:
        return lex(self.text)

    @cached_property
    def file(self) -> tree.File | None:
        """The syntax tree, without the statements that do not parse."""
        return parse(self.source).value

    @property
    def statements(self) -> tuple[tree.Statement, ...]:
        """The definitions and blocks that parse, with those of included files at their `include`. Rules, most of a long
        recipe, are omitted to keep completion fast."""
        return self._whole.statements

    @property
    def included(self) -> list[Source]:
        """The texts of the files that it includes."""
        return self._whole.sources[1:]

    @cached_property
    def _whole(self) -> Whole:
        parser = Parser(self.source)
        chunks, _ = split_statements(self.source, self.lexed.tokens)
        nodes = [parser.parse(chunk.tokens) for chunk in chunks if not chunk.broken and chunk.tokens[0].type in _NAMING]
        file = tree.File(self.source, tuple(node for node in nodes if not isinstance(node, Failure)))
        return Whole(file, self._reader)

    @cached_property
    def checked(self) -> Diagnosed[Recipe]:
        """The recipe and all its diagnostics, including those for the model."""
        found = recipe_from_text(self.text, self.name, reader=self._reader)
        return found if self.facts is None else on_model(found, self.facts)

    def is_own(self, span: Span) -> bool:
        """Whether a place is in this text, and not in an included file."""
        return span.source.base == 0 and span.source.text == self.text

    def cursor(self, offset: int, *, whole: bool = False) -> Cursor | None:
        key = offset, whole
        if key not in self._cursors:
            self._cursors[key] = cursor_at(self.source, self.lexed, offset, whole=whole)
        return self._cursors[key]

    def token_at(self, offset: int) -> Token | None:
        """The token at `offset`; of two adjacent tokens that meet there, the one that is a name, else the second."""
        touching = [token for token in self.lexed.tokens if token.start <= offset <= token.end and token.type != "NEWLINE"]
        words = [token for token in touching if token.type in ("VAR", "REF", "NAME")]
        return next(iter(words or touching[::-1]), None)

    @cached_property
    def metric(self) -> str:
        """The name of the metric that `sensitivity` means."""
        return sensitivity(self.statements).partition("(")[0]

    @cached_property
    def definitions(self) -> Mapping[str, Definition]:
        """The first definition of every `$name` and `@name`, with its value when its statement parses. Definitions in this
        text are found even in statements that do not parse."""
        found: dict[str, Definition] = {}
        own = [
            Span(self.source, token.start, token.end)
            for before, token in pairwise(self.lexed.tokens)
            if _DEFINING.get(before.type) == token.type
        ]
        theirs = [node.name.span for node in self._defining if node.span.source.base > 0]
        for span in (*own, *theirs):
            found.setdefault(span.text, Definition(span, *self._values.get(span.text, ("", ""))))
        return found

    @property
    def _defining(self) -> list[tree.Param | tree.Let | tree.Group]:
        return [node for node in self.statements if isinstance(node, tree.Param | tree.Let | tree.Group)]

    def names_before(self, offset: int, sigil: str) -> dict[str, Definition]:
        """The definitions above the statement at an offset; a name may be used only below its definition."""
        cursor = self.cursor(offset)
        start = cursor.before[0].start if cursor is not None and cursor.before else offset
        includes = any(token.type == "INCLUDE" and token.start < start for token in self.lexed.tokens)
        return {
            name: definition
            for name, definition in self.definitions.items()
            if name[0] == sigil and (includes if definition.is_included else definition.span.end <= start)
        }

    @cached_property
    def _values(self) -> dict[str, tuple[str, str]]:
        """The detail and page of each definition whose statement parses."""
        found: dict[str, tuple[str, str]] = {}
        scope = Scope()
        for statement in self._defining:
            name = statement.name.name
            match statement:
                case tree.Param():
                    shown = _shown(resolve_param(scope, statement, None))
                    gives = f"`--set {name}=VALUE`"
                    said = (
                        f"Default: {shown}. {gives} gives another." if shown else f"Without a value; give it one: {gives}."
                    )
                case tree.Let():
                    resolve_let(scope, statement)
                    said = _shown(scope.variables.get(name))
                    # A value that depends on the model is not known here; show its source text.
                    shown = said or one_line(statement.value.span.text)
                case tree.Group():
                    shown, said = one_line(statement.layers.span.text), ""
            page = f"```lbr\n{statement.span.text}\n```\n{said}".rstrip()
            found.setdefault(statement.name.span.text, (shown, page))
        return found


def _shown(value: Constant | None) -> str:
    """A value with its unit; empty for an invalid one."""
    if not isinstance(value, tree.Number):
        return "" if value is None else one_line(value.span.text)
    if value.unit is Unit.RATIO:
        return f"{100 * value.value:.12g}%"
    return f"{value.value:.12g}" + ("" if value.unit is Unit.NONE else f" {value.unit.value}")
