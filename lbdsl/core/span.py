"""Source text and positions in it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, eq=False)
class Source:
    """A text with its name in messages (a path, or `<string>`).

    `base` is its offset when the texts of a recipe and of the files it includes are concatenated: 0 for the recipe itself.
    `has_lines` is False for one value that stands in no file.
    """

    name: str
    text: str
    base: int = 0
    has_lines: bool = True

    @cached_property
    def _line_starts(self) -> tuple[int, ...]:
        return (0, *(offset for offset, char in enumerate(self.text, 1) if char == "\n"))

    def line_column(self, offset: int) -> tuple[int, int]:
        """1-based line and column (in characters) of an offset."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line_text(self, line: int) -> str:
        """The text of a 1-based line, without its newline."""
        start = self._line_starts[line - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")

    def place(self, offset: int) -> str:
        """`recipe.lbr:3:7`; for a value, its name alone."""
        line, column = self.line_column(offset)
        return f"{self.name}:{line}:{column}" if self.has_lines else self.name

    def span(self, start: int, end: int) -> Span:
        return Span(self, start, end)


@dataclass(frozen=True)
class Span:
    """A half-open range of characters, `[start, end)`, of one source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def start_line_column(self) -> tuple[int, int]:
        return self.source.line_column(self.start)

    @property
    def end_line_column(self) -> tuple[int, int]:
        return self.source.line_column(self.end)

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))
