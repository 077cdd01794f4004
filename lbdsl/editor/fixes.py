"""Formatting as one edit, for editors."""

from __future__ import annotations

from rapidfuzz.distance import Postfix, Prefix

from lbdsl.core.diagnostic import Diagnosed, Edit
from lbdsl.core.span import Source, Span
from lbdsl.language.format import format_text


def formatting(text: str, name: str) -> Diagnosed[Edit]:
    """The edit that makes a text canonical: from the first changed line to the last, with the text's own line endings.
    The value is None, with the errors, for a text that does not parse; an empty edit when nothing changes."""
    formatted = format_text(text, name)
    if formatted.value is None:
        return Diagnosed(None, formatted.diagnostics)
    new = formatted.value.replace("\n", "\r\n") if "\r\n" in text else formatted.value
    old_lines, new_lines = text.splitlines(keepends=True), new.splitlines(keepends=True)
    head = Prefix.similarity(old_lines, new_lines)
    tail = Postfix.similarity(old_lines[head:], new_lines[head:])
    start = sum(map(len, old_lines[:head]))
    end = len(text) - sum(map(len, old_lines[len(old_lines) - tail :]))
    edit = Edit(Span(Source(name, text), start, end), "".join(new_lines[head : len(new_lines) - tail]))
    return Diagnosed(edit, formatted.diagnostics)
