"""How many findings of a file are written: a file that is no recipe has one in every line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnostic, note

SHOWN = 20
"""Findings of a file that people are shown."""

WRITTEN = 500
"""Findings of a file that programs are given."""


class Capped(NamedTuple):
    """The findings of one file, and how many more there are."""

    file: str
    found: tuple[Diagnostic, ...]
    left: int

    @property
    def rest(self) -> str:
        """The line that says so; empty when there are none."""
        return f"... and {self.left} more finding{'' if self.left == 1 else 's'}\n" if self.left else ""


def capped(found: Iterable[tuple[str, Diagnostic]], most: int = SHOWN) -> Iterator[Capped]:
    """Each file's first findings in their order, errors before others; `found` are pairs of a file and a finding."""
    files: dict[str, list[Diagnostic]] = {}
    for file, diagnostic in found:
        files.setdefault(file, []).append(diagnostic)
    for file, diagnostics in files.items():
        chosen = sorted(range(len(diagnostics)), key=lambda place: not diagnostics[place].is_error)[:most]
        yield Capped(file, tuple(diagnostics[place] for place in sorted(chosen)), len(diagnostics) - len(chosen))


def for_programs(found: Sequence[tuple[str, Diagnostic]]) -> list[tuple[str, Diagnostic]]:
    """The pairs of `found` that are written; where some are left out, the last one of the file says how many (LB474)."""
    written: list[tuple[str, Diagnostic]] = []
    for file, diagnostics, left in capped(found, WRITTEN):
        written += [(file, diagnostic) for diagnostic in diagnostics]
        if left:
            said = f"{left} more finding{' of this file is' if left == 1 else 's of this file are'} left out"
            written.append((file, note("LB474", said, help="mend these first, or check another file")))
    return written
