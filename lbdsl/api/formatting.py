"""`format_file`: the canonical text of a recipe file, and writing it back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from lbdsl.api.writing import write_beside
from lbdsl.core.diagnostic import Diagnosed
from lbdsl.language.format import format_text
from lbdsl.recipe.reading import read_bytes, text_of


class Formatted(NamedTuple):
    """A recipe's text as in the file (without byte-order mark), and its canonical text."""

    old: str
    new: str
    marked: bool
    """The file began with a byte-order mark, which is removed."""

    @property
    def changed(self) -> bool:
        return self.marked or self.old != self.new


def format_file(path: str | Path) -> Diagnosed[Formatted]:
    """The canonical text of a file; nothing is written. None, with the errors, when it cannot be read or does not parse."""
    read = read_bytes(path)
    return Diagnosed(None, read.diagnostics) if read.value is None else format_bytes(read.value, str(path))


def format_bytes(data: bytes, name: str) -> Diagnosed[Formatted]:
    """As `format_file`, for a file's bytes."""
    text = text_of(data, name)
    found = text if text.value is None else format_text(text.value, name)
    if found.value is None:
        return Diagnosed(None, found.diagnostics)
    return Diagnosed(Formatted(data.decode("utf-8-sig"), found.value, data.startswith(b"\xef\xbb\xbf")), found.diagnostics)


def write_formatted(path: str | Path, formatted: Formatted) -> None:
    """Replace the file by its canonical text, keeping its mode; a symlink stays a symlink. Raises LbdslError."""
    write_beside(Path(os.path.realpath(path)), formatted.new, replace=True)
