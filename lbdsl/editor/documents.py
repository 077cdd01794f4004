"""Texts that are open in an editor, and positions in them as defined by the Language Server Protocol.

A line ends at `\\n`, `\\r\\n` or `\\r` and nowhere else; a character is counted in code units of the negotiated encoding,
UTF-16 unless the client offers another. Offsets are in Python's characters.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsprotocol import types as lsp

UNITS = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
_SIZES = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Text:
    """A text with its lines. Frozen: an edit creates a new one."""

    text: str
    encoding: str = "utf-16"

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    @cached_property
    def _ends(self) -> list[int]:
        """The offset of the end of each line, without its line ending."""
        return [*(match.start() for match in _LINE_END.finditer(self.text)), len(self.text)]

    @cached_property
    def _plain(self) -> bool:
        """True when every character is one code unit."""
        return self.text.isascii() or self.encoding == "utf-32"

    def place(self, offset: int) -> tuple[int, int]:
        """The line, and the character in it in code units, of an offset between 0 and the text's length."""
        line = bisect_right(self._starts, offset) - 1
        start = self._starts[line]
        return line, self.units(start, offset)

    def offset(self, place: lsp.Position) -> int:
        """The offset of a position, limited to the line's end and to the text's end. A position inside a character is
        moved before it."""
        if place.line < 0:
            return 0
        if place.line >= len(self._starts):
            return len(self.text)
        start, end = self._starts[place.line], self._ends[place.line]
        if self._plain:
            return min(start + max(0, place.character), end)
        offset, left = start, place.character
        while offset < end:
            left -= self._units(self.text[offset])
            if left < 0:
                break
            offset += 1
        return offset

    def units(self, start: int, end: int) -> int:
        """The number of code units between two offsets."""
        return end - start if self._plain else self._units(self.text[start:end])

    def _units(self, text: str) -> int:
        return len(text.encode(UNITS[self.encoding], "surrogatepass")) // _SIZES[self.encoding]

    def changed(self, changes: Iterable[Any]) -> Text:
        """The text after the protocol's content changes, each applied to the result of the previous one."""
        text = self
        for change in changes:
            start, end, where = 0, len(text.text), getattr(change, "range", None)
            if where is not None:
                start, end = sorted((text.offset(where.start), text.offset(where.end)))
            text = Text(text.text[:start] + change.text + text.text[end:], self.encoding)
        return text
