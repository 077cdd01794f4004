"""Where the texts of included files come from: the recipe's folder, or a plan that holds them."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

from lbdsl.core.diagnostic import Diagnosed, error
from lbdsl.core.paths import did_you_mean, nearest_path
from lbdsl.syntax.limits import MAX_BYTES


class Found(NamedTuple):
    """The text of one file. `identity` is the same for two names of one file; `sha256` is of its bytes."""

    text: str
    identity: str
    sha256: str


class NotFound(NamedTuple):
    """Why a file cannot be included, as the parts of an error."""

    code: str
    message: str
    help: tuple[str, ...] = ()


class Reader(Protocol):
    """Gives files by their path from the recipe's folder, written with `/` and without `..`."""

    @property
    def root(self) -> str:
        """The identity of the recipe itself."""
        ...

    def read(self, path: str) -> Found | NotFound: ...


class FolderReader:
    """Reads regular files in a recipe's folder or below it. Links are followed, but never out of the folder."""

    def __init__(self, recipe: Path):
        """`recipe` is the recipe's own file; it need not exist."""
        self._folder = os.path.realpath(recipe.parent)
        self.root = os.path.realpath(recipe)

    def read(self, path: str) -> Found | NotFound:
        real = os.path.realpath(os.path.join(self._folder, path))
        if os.path.commonpath([real, self._folder]) != self._folder:
            return NotFound(
                "LB126",
                f"`{path}` is a link that leaves the recipe's directory",
                ("a recipe includes only files beside it or below",),
            )
        try:
            if not stat.S_ISREG(os.stat(real).st_mode):
                return NotFound("LB130", f"`{path}` is not a file")
            with open(real, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return NotFound("LB130", f"there is no `{path}` beside the recipe", _nearest(self._folder, path))
        except (OSError, ValueError) as problem:
            return NotFound("LB130", f"cannot read `{path}`: {getattr(problem, 'strerror', None) or problem}")
        if len(data) > MAX_BYTES:
            return NotFound("LB135", f"`{path}` is larger than {MAX_BYTES // 2**20} MiB")
        try:
            text = decode(data)
        except UnicodeDecodeError as problem:
            line = data.count(b"\n", 0, problem.start) + 1
            return NotFound("LB130", f"`{path}` is not UTF-8 text (line {line})", ("save it as UTF-8",))
        return Found(text, real, sha256(data).hexdigest())


class TextsReader:
    """Gives the texts that a plan holds; nothing is read from disk."""

    def __init__(self, texts: Iterable[tuple[str, str, str]]):
        """`texts` are (path, text, sha256 of the file's bytes)."""
        self._texts = {path: Found(text, path, digest) for path, text, digest in texts}
        self.root = ""

    def read(self, path: str) -> Found | NotFound:
        return self._texts.get(path) or NotFound("LB130", f"there is no `{path}` in the plan")


def decode(data: bytes) -> str:
    """UTF-8 text, a byte-order mark left out and line ends made `\\n`. Raises UnicodeDecodeError."""
    return data.decode("utf-8-sig").replace("\r\n", "\n")


def read_bytes(path: str | Path) -> Diagnosed[bytes]:
    """The bytes of a user's file, at most one more than the limit; LB020 when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return Diagnosed(file.read(MAX_BYTES + 1))
    except FileNotFoundError:
        return Diagnosed(None, (error("LB020", f"cannot read {path}: no such file", help=did_you_mean(path)),))
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        return Diagnosed(None, (error("LB020", f"cannot read {path}: {reason}"),))


def text_of(data: bytes, name: str) -> Diagnosed[str]:
    """The text in bytes; LB019 or LB020 when they are too many, or no text."""
    if len(data) > MAX_BYTES:
        return Diagnosed(None, (error("LB019", f"{name} is larger than {MAX_BYTES // 2**20} MiB"),))
    try:
        return Diagnosed(decode(data))
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        return Diagnosed(None, (error("LB020", f"{name} is not UTF-8 text (line {line})", help="save it as UTF-8"),))


def joined(including: str, path: str) -> str | None:
    """The path from the recipe's folder of `path` as the file at `including` writes it; None when it leads out."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(including), path))
    return None if found == ".." or found.startswith(("../", "/")) else found


def _nearest(folder: str, path: str) -> tuple[str, ...]:
    near = nearest_path(os.path.join(folder, path))
    return (f"did you mean `{os.path.relpath(near, folder).replace(os.sep, '/')}`?",) if near else ()
