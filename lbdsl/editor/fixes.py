"""Edits for editors: all automatic fixes of findings as one, and formatting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnosed, Edit, Fix
from lbdsl.language.format import format_text


class TextEdit(NamedTuple):
    """New text for the range between two offsets."""

    start: int
    end: int
    text: str


def together(fixes: Iterable[Fix]) -> Fix | None:
    """One fix that combines all fixes; of two that overlap, only the first. None without any."""
    edits: list[Edit] = []
    for fix in fixes:
        if all(edit not in edits and _apart(edit, other) for edit in fix.edits for other in edits):
            edits += fix.edits
    return Fix("fix everything that can be fixed", tuple(edits)) if edits else None


def _apart(one: Edit, other: Edit) -> bool:
    return one.span.end < other.span.start or other.span.end < one.span.start


def formatting(text: str, name: str) -> Diagnosed[TextEdit]:
    """The edit that makes a text canonical: from the first changed line to the last, with the text's own line endings.
    The value is None, with the errors, for a text that does not parse; an empty edit when nothing changes."""
    formatted = format_text(text, name)
    if formatted.value is None:
        return Diagnosed(None, formatted.diagnostics)
    new = formatted.value.replace("\n", "\r\n") if "\r\n" in text else formatted.value
    old_lines, new_lines = text.splitlines(keepends=True), new.splitlines(keepends=True)
    head = 0
    while head < min(len(old_lines), len(new_lines)) and old_lines[head] == new_lines[head]:
        head += 1
    tail = 0
    while tail < min(len(old_lines), len(new_lines)) - head and old_lines[-1 - tail] == new_lines[-1 - tail]:
        tail += 1
    start = sum(map(len, old_lines[:head]))
    end = len(text) - sum(map(len, old_lines[len(old_lines) - tail :]))
    return Diagnosed(TextEdit(start, end, "".join(new_lines[head : len(new_lines) - tail])), formatted.diagnostics)
