"""Automatic fixes of a text or a file: applied together, repeated until nothing is left to fix, and never leading to a new
error. A file keeps its encoding, line endings and permissions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from lbdsl.api.checking import ModelAtHand, check_recipe, on_model
from lbdsl.api.writing import write_beside
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.load import recipe_from_bytes, recipe_from_text
from lbdsl.recipe.reading import FileReader, FolderReader, decode, read_bytes

MAX_ROUNDS = 10
"""The maximum number of rounds; a fix may make another one possible."""

_RESTARTS = 5

Check = Callable[[str], tuple[Diagnostic, ...]]
"""A function that returns all diagnostics of a text."""


@dataclass(frozen=True)
class Applied:
    """One applied fix; `line` is its line number at the time it was applied."""

    code: str
    title: str
    line: int


@dataclass(frozen=True)
class Fixed:
    """A text with its fixes applied, and the text `before`. `diagnostics` are those that remain; `left_out` are fixes that
    would have caused a new error."""

    before: str
    text: str
    applied: tuple[Applied, ...]
    diagnostics: tuple[Diagnostic, ...]
    left_out: tuple[Applied, ...] = ()


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


def fix_text(text: str, check: Check) -> Fixed:
    """Apply the non-overlapping fixes of `text`, then those of the result, at most `MAX_ROUNDS` times.

    The result has no error that `text` did not have: fixes that cause one are left out.
    """
    before = Counter((d.code, d.message) for d in check(text) if d.is_error)
    refused: set[tuple[str, str]] = set()
    left_out: list[Applied] = []
    for _ in range(_RESTARTS):
        good, last = _rounds(text, check, before, refused)
        worse = _new_errors(last.diagnostics, before)
        if not worse:
            return replace(last, left_out=tuple(left_out))
        lines = {d.span.start_line_column[0] for d in worse if d.span is not None}
        guilty = [item for item in last.applied if item.line in lines] or list(last.applied)
        left_out += guilty
        refused |= {(item.code, item.title) for item in guilty}
    return replace(good, left_out=tuple(left_out))


def _rounds(
    text: str,
    check: Check,
    before: Counter[tuple[str, str]],
    refused: set[tuple[str, str]],
) -> tuple[Fixed, Fixed]:
    """The last result without a new error, and the last result."""
    found = check(text)
    good = last = Fixed(text, text, (), found)
    for _ in range(MAX_ROUNDS):
        chosen = chosen_fixes(last.text, last.diagnostics, refused)
        changed = _edited(last.text, chosen)
        if changed == last.text:
            break
        fixes = ((d.code, d.fix) for d in chosen if d.fix is not None)
        applied = (Applied(code, fix.title, fix.edits[0].span.start_line_column[0]) for code, fix in fixes)
        last = Fixed(text, changed, (*last.applied, *applied), check(changed))
        if not _new_errors(last.diagnostics, before):
            good = last
    return good, last


def chosen_fixes(text: str, found: Sequence[Diagnostic], refused: Set[tuple[str, str]] = frozenset()) -> list[Diagnostic]:
    """Findings whose fix edits only this text, without overlaps; of overlapping fixes, the first in the text is chosen."""
    fixable = [
        d
        for d in found
        if d.fix is not None
        and d.fix.edits
        and all(edit.span.source.text == text and edit.span.source.base == 0 for edit in d.fix.edits)
        and (d.code, d.fix.title) not in refused
    ]
    chosen: list[Diagnostic] = []
    taken: list[tuple[int, int]] = []
    for d in sorted(fixable, key=lambda d: min(edit.span.start for edit in d.fix.edits)):  # type: ignore[union-attr]
        assert d.fix is not None
        ranges = [(edit.span.start, edit.span.end) for edit in d.fix.edits]
        # Of two insertions at the same position the order would be a guess.
        pairs = [(one, other) for one in ranges for other in taken]
        if not any(one == other or (one[0] < other[1] and other[0] < one[1]) for one, other in pairs):
            chosen.append(d)
            taken += ranges
    return chosen


def _edited(text: str, chosen: Iterable[Diagnostic]) -> str:
    edits = [edit for d in chosen if d.fix is not None for edit in d.fix.edits]
    for edit in sorted(edits, key=lambda edit: (edit.span.start, edit.span.end), reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text


def _new_errors(found: Sequence[Diagnostic], before: Counter[tuple[str, str]]) -> list[Diagnostic]:
    """The errors that the original text did not have; a message that only moved is not new."""
    left, new = Counter(before), []
    for d in found:
        if d.is_error:
            left[d.code, d.message] -= 1
            if left[d.code, d.message] < 0:
                new.append(d)
    return new


def _encoded(text: str, *, like: bytes) -> str:
    """The text with the byte-order mark and the line endings of `like`; `\\n` if those differ."""
    if 0 < like.count(b"\n") == like.count(b"\r\n"):
        text = text.replace("\n", "\r\n")
    return ("\ufeff" if like.startswith(b"\xef\xbb\xbf") else "") + text
