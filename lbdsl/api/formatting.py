"""`format_file`: the canonical text of a recipe's file, and writing it in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from lbdsl.api.writing import write_beside
from lbdsl.core.diagnostic import Diagnosed, error
from lbdsl.recipe.reading import decode
from lbdsl.syntax.format import format_text
from lbdsl.syntax.names import MAX_BYTES


class Formatted(NamedTuple):
    """A recipe's text as it was (byte-order mark left out, else as in the file) and as it should be."""

    old: str
    new: str
    marked: bool
    """The file began with a byte-order mark, which goes."""

    @property
    def changed(self) -> bool:
        return self.marked or self.old != self.new


def format_file(path: str | Path) -> Diagnosed[Formatted]:
    """The canonical text of a file; nothing is written. None, with the errors, when it does not parse."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        return Diagnosed(None, (error("LB020", f"cannot read {path}: {reason}"),))
    return format_bytes(data, str(path))


def format_bytes(data: bytes, name: str) -> Diagnosed[Formatted]:
    """The same of bytes that were read somewhere."""
    if len(data) > MAX_BYTES:
        return Diagnosed(None, (error("LB019", f"{name} is larger than {MAX_BYTES // 2**20} MiB"),))
    try:
        text = decode(data)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        return Diagnosed(None, (error("LB020", f"{name} is not UTF-8 text (line {line})", help="save it as UTF-8"),))
    found = format_text(text, name)
    if found.value is None:
        return Diagnosed(None, found.diagnostics)
    return Diagnosed(Formatted(data.decode("utf-8-sig"), found.value, data.startswith(b"\xef\xbb\xbf")),
                     found.diagnostics)


def write_formatted(path: str | Path, formatted: Formatted) -> None:
    """Put the canonical text in the file's place, with its mode; a link keeps leading to it. Raises LbdslError."""
    write_beside(Path(os.path.realpath(path)), formatted.new, replace=True)
