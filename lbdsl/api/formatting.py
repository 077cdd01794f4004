"""`format_file`: the canonical text of a recipe's file, and writing it in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from lbdsl.api.reading import read_bytes, text_from
from lbdsl.api.writing import write_beside
from lbdsl.core.diagnostic import Diagnosed, LbdslError
from lbdsl.syntax.format import format_text


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
    """The canonical text of a file; nothing is written. None, with the errors, when it cannot be read or does not parse."""
    try:
        return format_bytes(read_bytes(str(path)), str(path))
    except LbdslError as problem:
        return Diagnosed(None, problem.diagnostics)


def format_bytes(data: bytes, name: str) -> Diagnosed[Formatted]:
    """The same of bytes that were read somewhere."""
    try:
        text = text_from(data, name)
    except LbdslError as problem:
        return Diagnosed(None, problem.diagnostics)
    found = format_text(text, name)
    if found.value is None:
        return Diagnosed(None, found.diagnostics)
    return Diagnosed(Formatted(data.decode("utf-8-sig"), found.value, data.startswith(b"\xef\xbb\xbf")),
                     found.diagnostics)


def write_formatted(path: str | Path, formatted: Formatted) -> None:
    """Put the canonical text in the file's place, with its mode; a link keeps leading to it. Raises LbdslError."""
    write_beside(Path(os.path.realpath(path)), formatted.new, replace=True)
