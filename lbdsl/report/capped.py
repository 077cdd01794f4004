"""The limit on findings shown for a file: a file that is not a recipe has one in every line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnostic, note
from lbdsl.core.units import plural

SHOWN = 20
"""The maximum number of findings of a file in text output."""

WRITTEN = 500
"""The maximum number of findings of a file in machine-readable output."""


class Capped(NamedTuple):
    """Consecutive findings of one file, and how many more the file has; `left` is 0 except after the file's last one."""

    file: str
    found: tuple[Diagnostic, ...]
    left: int

    @property
    def rest(self) -> str:
        """The line that reports the omitted findings; empty when there are none."""
        return f"... and {plural(self.left, 'more finding')}\n" if self.left else ""


def capped(found: Iterable[tuple[str, Diagnostic]], most: int = SHOWN) -> Iterator[Capped]:
    """The first `most` findings of each file, preferring errors, in the order of `found` (pairs of file and finding)."""
    pairs = list(found)
    places: dict[str, list[int]] = {}
    for place, (file, _) in enumerate(pairs):
        places.setdefault(file, []).append(place)
    chosen = {file: sorted(sorted(of, key=lambda i: not pairs[i][1].is_error)[:most]) for file, of in places.items()}
    kept = sorted(place for of in chosen.values() for place in of)
    for file, run in groupby(kept, key=lambda place: pairs[place][0]):
        row = list(run)
        last = row[-1] == chosen[file][-1]
        yield Capped(file, tuple(pairs[place][1] for place in row), len(places[file]) - len(chosen[file]) if last else 0)


def for_programs(found: Sequence[tuple[str, Diagnostic]]) -> list[tuple[str, Diagnostic]]:
    """The pairs of `found` to output; when some are omitted, the file's last one reports how many (LB474)."""
    written: list[tuple[str, Diagnostic]] = []
    for file, diagnostics, left in capped(found, WRITTEN):
        written += [(file, diagnostic) for diagnostic in diagnostics]
        if left:
            said = f"{left} more finding{' of this file is' if left == 1 else 's of this file are'} left out"
            written.append((file, note("LB474", said, help="fix these first, or check another file")))
    return written
