"""Fixing recipes in a text or in a file. A file keeps its encoding, line endings and permissions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lbdsl.api.checking import ModelAtHand, check_recipe, on_model
from lbdsl.api.fixing import Fixed, fix_text
from lbdsl.api.writing import write_beside
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.load import recipe_from_bytes, recipe_from_text
from lbdsl.recipe.reading import FileReader, FolderReader, decode, read_bytes

_MARK = "\ufeff"

Result = tuple[tuple[Diagnostic, ...], Fixed | None]
"""The remaining diagnostics and the applied fixes; None when the text could not be read."""


def fix_recipe(
    text: str,
    name: str = "<recipe>",
    set_params: Mapping[str, object] | None = None,
    *,
    facts: ModelFacts | ModelAtHand | None = None,
) -> Fixed:
    """The text with every fix applied that causes no new error, and the remaining diagnostics. With `facts`, fixes for
    that model are applied too."""
    return fix_text(text, lambda changed: check_recipe(changed, name, set_params, facts=facts).diagnostics)


def fix_file(
    path: str | Path, set_params: Mapping[str, object], facts: ModelFacts | ModelAtHand | None, *, write: bool
) -> Result:
    """Fix the recipe in a file. With `write` the file is replaced atomically when something changed.

    Raises LbdslError with LB047 when it cannot be written.
    """
    read = read_bytes(path)
    if read.value is None:
        return read.diagnostics, None
    data = read.value
    found, fixed = fix_bytes(data, str(path), set_params, facts, reader=FolderReader(Path(path)))
    if write and fixed is not None and fixed.text != fixed.before:
        write_beside(Path(os.path.realpath(path)), _encoded(fixed.text, like=data), replace=True)
    return found, fixed


def fix_bytes(
    data: bytes,
    name: str,
    set_params: Mapping[str, object],
    facts: ModelFacts | ModelAtHand | None,
    *,
    reader: FileReader | None = None,
) -> Result:
    """Fix the recipe in a file's bytes."""

    def check(text: str) -> tuple[Diagnostic, ...]:
        return on_model(recipe_from_text(text, name, set_params, reader=reader), facts).diagnostics

    first = recipe_from_bytes(data, name, set_params, reader=reader)
    if any(d.code in ("LB019", "LB020", "LB138") for d in first.diagnostics):
        return first.diagnostics, None
    fixed = fix_text(decode(data), check)
    return fixed.diagnostics, fixed


def _encoded(text: str, *, like: bytes) -> str:
    """The text with the byte-order mark and the line endings of `like`; `\\n` if those differ."""
    if 0 < like.count(b"\n") == like.count(b"\r\n"):
        text = text.replace("\n", "\r\n")
    return (_MARK if like.startswith(_MARK.encode()) else "") + text
