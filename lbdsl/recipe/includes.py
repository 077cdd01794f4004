"""`include`: a recipe's statements with those of the files it includes in their places."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Label, error
from lbdsl.core.span import Source, Span
from lbdsl.recipe.reading import Found, NotFound, Reader, joined
from lbdsl.recipe.schema import IncludedText
from lbdsl.syntax import tree
from lbdsl.syntax.limits import MAX_BYTES, MAX_RULES, MAX_TOKENS
from lbdsl.syntax.parse import parse

MAX_FILES = 64
"""How many files one recipe may include; also the depth to which they may include each other."""

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Whole:
    """A recipe and what it includes. `statements` are in the order of reading, includes replaced by what they bring.

    `unread` says that an included file, or a statement of one, is missing: names that seem unknown may be defined there.
    """

    source: Source
    statements: tuple[tree.Statement, ...]
    included: tuple[IncludedText, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    unread: bool = False


def with_includes(file: tree.File, reader: Reader | None, actions: Collection[str] = ()) -> Whole:
    """Read every included file, each once. `reader` is None for a text that stands in no folder, such as standard input.

    Mistakes in an included file are diagnostics that stand in it. Errors of the includes themselves: LB126, LB130-LB137.
    """
    expander = _Expander(file, reader, actions)
    statements = tuple(expander.expand(file, ""))
    return Whole(file.source, statements, tuple(expander.included), tuple(expander.diagnostics), expander.unread)


class _Open(NamedTuple):
    """A file that is being read: its identity, its path and the `include` that asked for it."""

    identity: str
    path: str
    span: Span


@dataclass
class _Expander:
    file: tree.File
    reader: Reader | None
    actions: Collection[str]
    included: list[IncludedText] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    unread: bool = False
    open: list[_Open] = field(default_factory=list)
    places: dict[str, Span] = field(default_factory=dict)
    """Where each file was included, by its identity."""

    next_base: int = 0
    tokens: int = 0
    rules: int = 0

    def expand(self, file: tree.File, path: str) -> Iterator[tree.Statement]:
        """The statements of one file, those of its includes among them."""
        self.next_base = max(self.next_base, file.source.base + len(file.source.text) + 1)
        self.tokens += file.tokens
        for statement in file.statements:
            self.rules += isinstance(statement, tree.RuleStatement)
            if not isinstance(statement, tree.Include):
                yield statement
                continue
            inner = self._included(statement, path)
            if inner is None:
                self.unread = True
            else:
                yield from self.expand(*inner)
                self.open.pop()

    def _included(self, node: tree.Include, including: str) -> tuple[tree.File, str] | None:
        """The tree of an included file and its path; None with errors. It is on the stack of open files then."""
        path = self._path(node, including)
        if path is None:
            return None
        if self.reader is None:
            return self._fail(
                "LB136",
                "a recipe that stands in no folder cannot include files",
                node.path.span,
                help="save it to a file, and give that file",
            )
        found = self.reader.read(path)
        if isinstance(found, NotFound):
            return self._fail(found.code, found.message, node.path.span, help=found.help)
        if not self._new(node, path, found) or not self._hash_fits(node, path, found):
            return None
        parsed = self._parsed(node, path, found)
        if parsed is None:
            return None
        self.places[found.identity] = node.span
        self.open.append(_Open(found.identity, path, node.span))
        return parsed, path

    def _path(self, node: tree.Include, including: str) -> str | None:
        """The included path from the recipe's folder."""
        written, span = node.path.value, node.path.span
        if written.startswith(("/", "~")) or written[1:2] == ":":
            return self._fail(
                "LB126",
                f"`{written}` leaves the recipe's directory",
                span,
                help="a recipe includes only files beside it or below, by a relative path",
            )
        if "\\" in written:
            return self._fail("LB130", "paths are written with `/`", span)
        if not written.strip() or not written.isprintable():
            return self._fail("LB130", "this names no file", span, help='as in `include "common.lbr"`')
        path = joined(including, written)
        if path is None:
            return self._fail(
                "LB126",
                f"`{written}` leaves the recipe's directory",
                span,
                help="a recipe includes only files beside it or below",
            )
        return path

    def _new(self, node: tree.Include, path: str, found: Found) -> bool:
        """Whether the file is not open or read already."""
        assert self.reader is not None
        names = [os.path.basename(self.file.source.name), *(item.path for item in self.open)]
        identities = [self.reader.root, *(item.identity for item in self.open)]
        if found.identity in identities:
            start = identities.index(found.identity)
            chain = " → ".join([*names[start:], path if start else names[0]])
            labels = tuple(Label(item.span, f"includes `{item.path}`") for item in self.open[start:])
            self._fail(
                "LB131",
                f"included files go in a circle: {chain}",
                node.span,
                labels=labels,
                help="remove one of these includes",
            )
            return False
        if found.identity in self.places:
            self._fail(
                "LB132",
                f"`{path}` is included twice",
                node.span,
                labels=(Label(self.places[found.identity], "first here"),),
                help="remove one of them",
            )
            return False
        return True

    def _hash_fits(self, node: tree.Include, path: str, found: Found) -> bool:
        if node.sha256 is None:
            return True
        wanted = node.sha256.value.lower()
        if len(wanted) != 64 or not _HEX.issuperset(wanted):
            self._fail(
                "LB137", "a sha256 has 64 hexadecimal digits", node.sha256.span, help=f"`sha256sum {path}` prints it"
            )
            return False
        if wanted != found.sha256:
            self._fail(
                "LB133",
                f"`{path}` is not the file that was meant: its sha256 differs",
                node.sha256.span,
                help=(f"it is {found.sha256}", "look at what changed before you write that here"),
            )
            return False
        return True

    def _parsed(self, node: tree.Include, path: str, found: Found) -> tree.File | None:
        size = self.next_base + len(found.text)
        if len(self.included) >= MAX_FILES or size > MAX_BYTES:
            limit = f"{MAX_FILES} files" if len(self.included) >= MAX_FILES else f"{MAX_BYTES // 2**20} MiB"
            return self._fail(
                "LB135",
                f"with `{path}` the recipe includes more than {limit}",
                node.span,
                help="a recipe and what it includes have these limits together",
            )
        name = os.path.join(os.path.dirname(self.file.source.name), path)
        source = Source(name, found.text, self.next_base)
        parsed = parse(source, actions=self.actions)
        self.diagnostics += parsed.diagnostics
        self.unread = self.unread or any(problem.is_error for problem in parsed.diagnostics)
        if parsed.value is None:
            return None
        rules = sum(isinstance(statement, tree.RuleStatement) for statement in parsed.value.statements)
        for count, most, what in (
            (self.tokens + parsed.value.tokens, MAX_TOKENS, "tokens"),
            (self.rules + rules, MAX_RULES, "rules"),
        ):
            if count > most:
                return self._fail(
                    "LB135",
                    f"with `{path}` the recipe has more than {most} {what}",
                    node.span,
                    help="a recipe and what it includes have these limits together",
                )
        self.included.append(IncludedText.model_construct(path=path, text=found.text, sha256=found.sha256))
        return parsed.value

    def _fail(
        self, code: str, message: str, span: Span, *, help: str | tuple[str, ...] = (), labels: tuple[Label, ...] = ()
    ) -> Any:
        """Report; the None it returns stands for the value."""
        self.diagnostics.append(error(code, message, span, help=help, labels=labels))
