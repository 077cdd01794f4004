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

UNITS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}
"""The codec of each encoding, and the bytes of its code units."""


@dataclass(frozen=True)
class Text:
    """A text with its lines. Frozen: an edit creates a new one."""

    text: str
    encoding: str = "utf-16"

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer(r"\r\n|\n|\r", self.text))]

    def place(self, offset: int) -> tuple[int, int]:
        """The line, and the character in it in code units, of an offset between 0 and the text's length."""
        line = bisect_right(self._starts, offset) - 1
        return line, self.units(self._starts[line], offset)

    def offset(self, place: lsp.Position) -> int:
        """The offset of a position, limited to the line's end and to the text's end. A position inside a character is
        moved before it."""
        if place.line < 0:
            return 0
        if place.line >= len(self._starts):
            return len(self.text)
        start, (codec, size) = self._starts[place.line], UNITS[self.encoding]
        line = re.split(r"[\r\n]", self.text[start:], maxsplit=1)[0]
        # A lone surrogate, which cannot be decoded, is as long as this character.
        before = re.sub("[\ud800-\udfff]", "\ufffd", line).encode(codec)[: size * max(0, place.character)]
        return start + len(before.decode(codec, "ignore"))

    def units(self, start: int, end: int) -> int:
        """The number of code units between two offsets."""
        codec, size = UNITS[self.encoding]
        return len(self.text[start:end].encode(codec, "surrogatepass")) // size

    def changed(self, changes: Iterable[Any]) -> Text:
        """The text after the protocol's content changes, each applied to the result of the previous one."""
        text = self
        for change in changes:
            start, end, where = 0, len(text.text), getattr(change, "range", None)
            if where is not None:
                start, end = sorted((text.offset(where.start), text.offset(where.end)))
            text = Text(text.text[:start] + change.text + text.text[end:], self.encoding)
        return text
