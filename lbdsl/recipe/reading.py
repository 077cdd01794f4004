"""Read the texts of a recipe within limits, and replace each `include` by the statements of its file.

Included files come from the recipe's folder, or from a plan that contains them."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnosed, Label, refused
from lbdsl.core.paths import did_you_mean, is_model, nearest_path
from lbdsl.core.span import Source, Span
from lbdsl.language import tree
from lbdsl.language.limits import MAX_BYTES, MAX_RULES, MAX_TOKENS
from lbdsl.language.parse import parse
from lbdsl.recipe.schema import IncludedText
from lbdsl.recipe.scope import Findings, Unresolved, attempt

_BELOW = "a recipe includes only files beside it or below"


class Found(NamedTuple):
    """The text of one file. `identity` is the same for two paths of one file; `sha256` is of its bytes."""

    text: str
    identity: str
    sha256: str


class FolderReader:
    """Reads regular files in a recipe's folder or below it. Links are followed, but never out of the folder."""

    def __init__(self, recipe: Path):
        """`recipe` is the recipe's own file; it need not exist."""
        self._folder = os.path.realpath(recipe.parent)
        self.root = os.path.realpath(recipe)

    def read(self, path: str) -> Diagnosed[Found]:
        real = os.path.realpath(os.path.join(self._folder, path))
        if os.path.commonpath([real, self._folder]) != self._folder:
            return refused("LB126", f"`{path}` is a link that leaves the recipe's directory", help=_BELOW)
        try:
            if not stat.S_ISREG(os.stat(real).st_mode):
                return refused("LB130", f"`{path}` is not a file")
            with open(real, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            near = nearest_path(os.path.join(self._folder, path))
            meant = "" if near is None else os.path.relpath(near, self._folder).replace(os.sep, "/")
            help = (f"did you mean `{meant}`?",) if near else ()
            return refused("LB130", f"there is no `{path}` beside the recipe", help=help)
        except (OSError, ValueError) as problem:
            return refused("LB130", f"cannot read `{path}`: {getattr(problem, 'strerror', None) or problem}")
        text, problems = text_of(data, f"`{path}`")
        if text is None:
            return refused("LB135" if problems[0].code == "LB019" else "LB130", problems[0].message, help=problems[0].help)
        return Diagnosed(Found(text, real, sha256(data).hexdigest()))


class TextsReader:
    """Reads texts that are in memory, such as those of a plan; nothing is read from disk."""

    def __init__(self, texts: Iterable[tuple[str, str, str]], root: str = "", where: str = "in the plan"):
        """`texts` are (path, text, sha256 of the file's bytes); `root` is the path of the recipe itself."""
        self._texts = {path: Found(text, path, digest) for path, text, digest in texts}
        self.root, self._where = root, where

    def read(self, path: str) -> Diagnosed[Found]:
        found = self._texts.get(path)
        return refused("LB130", f"there is no `{path}` {self._where}") if found is None else Diagnosed(found)


FileReader = FolderReader | TextsReader
"""Reads files by their path relative to the recipe's folder, written with `/` and without `..`; on failure, one error
without a span. `root` is the identity of the recipe itself."""


def decode(data: bytes) -> str:
    """UTF-8 text, without a byte-order mark and with `\\n` line ends. Raises UnicodeDecodeError."""
    return data.decode("utf-8-sig").replace("\r\n", "\n")


def read_bytes(path: str | Path) -> Diagnosed[bytes]:
    """The bytes of a user's file, at most one more than the limit; LB020 when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return Diagnosed(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return refused("LB020", f"cannot read {path}: no such file", help=did_you_mean(path))
    except (OSError, ValueError) as problem:
        help = "it is a model: the recipe comes first, as in `lbdsl plan RECIPE MODEL`" if is_model(path) else ()
        return refused("LB020", f"cannot read {path}: {getattr(problem, 'strerror', None) or problem}", help=help)


def text_of(data: bytes, name: str) -> Diagnosed[str]:
    """The text in bytes; LB019 when there are too many, LB020 when they are not UTF-8."""
    if len(data) > MAX_BYTES:
        return refused("LB019", f"{name} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        return Diagnosed(decode(data))
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        return refused("LB020", f"{name} is not UTF-8 text (line {line})", help="save it as UTF-8")


def joined(including: str, path: str) -> str | None:
    """`path`, as written in the file `including`, relative to the recipe's folder; None when it is outside."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(including), path))
    return None if found == ".." or found.startswith(("../", "/")) else found


# Includes ------------------------------------------------------------------------------------------------------------

MAX_FILES = 64
"""How many files one recipe may include; also the depth to which they may include each other."""


@dataclass
class Whole(Findings):
    """A recipe and its included files, each once. `statements` are in reading order, with each include replaced by its
    file's statements; `sources` are all texts, the recipe's own first.

    `reader` is None for a text without a folder, such as standard input. Errors in an included file have their spans in
    that file. Errors of the includes themselves: LB126, LB130-LB136.
    """

    file: tree.File
    reader: FileReader | None
    statements: tuple[tree.Statement, ...] = ()
    files: list[tree.File] = field(default_factory=list)
    included: list[IncludedText] = field(default_factory=list)
    open: dict[str, tuple[str, Span]] = field(default_factory=dict)
    """The path of each file that is being read, and the span of its `include`, by the file's identity."""

    places: dict[str, Span] = field(default_factory=dict)
    """Where each file was included, by its identity."""

    def __post_init__(self) -> None:
        self.source = self.file.source
        self.files.append(self.file)
        self.statements = tuple(self._expanded(self.file, ""))

    @property
    def sources(self) -> list[Source]:
        return [file.source for file in self.files]

    def _expanded(self, file: tree.File, path: str) -> Iterator[tree.Statement]:
        """The statements of one file, including those of its includes."""
        for statement in file.statements:
            if not isinstance(statement, tree.Include):
                yield statement
                continue
            inner = attempt(self._included, statement, path)
            if inner is not None:
                yield from self._expanded(*inner)
                self.open.popitem()

    def _included(self, node: tree.Include, including: str) -> tuple[tree.File, str]:
        """The tree of an included file and its path; the file is the last open one."""
        path, span = self._path(node, including), node.path.span
        if self.reader is None:
            message = "`include` needs a recipe that was read from a file"
            self.fail("LB136", message, span, help="save it to a file, and give that file")
        found, problems = self.reader.read(path)
        if found is None:
            self.fail(problems[0].code, problems[0].message, span, help=problems[0].help)
        self._check_new(self.reader, node, path, found)
        if node.sha256 is not None and node.sha256.value.lower() != found.sha256:
            hints = (f"it is {found.sha256}", "look at what changed before you write that here")
            message = f"`{path}` is not the file that was meant: its sha256 differs"
            self.fail("LB133", message, node.sha256.span, help=hints)
        file = self._parsed(node, path, found)
        self.places[found.identity] = node.span
        self.open[found.identity] = (path, node.span)
        return file, path

    def _path(self, node: tree.Include, including: str) -> str:
        """The included path, relative to the recipe's folder."""
        written, span = node.path.value, node.path.span
        path = joined(including, written)
        if path is None or written.startswith("~") or written[1:2] == ":":
            self.fail("LB126", f"`{written}` leaves the recipe's directory", span, help=f"{_BELOW}, by a relative path")
        if "\\" in written or not written.strip() or not written.isprintable():
            self.fail("LB130", "this names no file; paths are written with `/`", span, help='as in `include "common.lbr"`')
        return path

    def _check_new(self, reader: FileReader, node: tree.Include, path: str, found: Found) -> None:
        """Fail when the file is already open, or already included."""
        names = [os.path.basename(self.source.name), *(path for path, _ in self.open.values())]
        identities = [reader.root, *self.open]
        if found.identity in identities:
            start = identities.index(found.identity)
            chain = " → ".join([*names[start:], path if start else names[0]])
            labels = tuple(Label(span, f"includes `{name}`") for name, span in [*self.open.values()][start:])
            message = f"included files go in a circle: {chain}"
            self.fail("LB131", message, node.span, labels=labels, help="remove one of these includes")
        if found.identity in self.places:
            first = Label(self.places[found.identity], "first here")
            self.fail("LB132", f"`{path}` is included twice", node.span, labels=first, help="remove one of them")

    def _parsed(self, node: tree.Include, path: str, found: Found) -> tree.File:
        last = self.files[-1].source
        base = last.base + len(last.text) + 1
        file, problems = parse(Source(os.path.join(os.path.dirname(self.source.name), path), found.text, base))
        self.diagnostics += problems
        if file is None:
            raise Unresolved
        files = (*self.files, file)
        rules = [node for one in files for node in one.statements if isinstance(node, tree.RuleStatement)]
        beyond = {
            f"{MAX_FILES} files": len(self.included) >= MAX_FILES,
            f"{MAX_BYTES // 2**20} MiB": base + len(found.text) > MAX_BYTES,
            f"{MAX_TOKENS} tokens": sum(one.tokens for one in files) > MAX_TOKENS,
            f"{MAX_RULES} rules": len(rules) > MAX_RULES,
        }
        for limit in (limit for limit, passed in beyond.items() if passed):
            help = "a recipe and what it includes have these limits together"
            self.fail("LB135", f"with `{path}` the recipe has more than {limit}", node.span, help=help)
        self.included.append(IncludedText(path=path, text=found.text, sha256=found.sha256))
        self.files.append(file)
        return file
