"""Diagnostics as readable text, as one line each, and as JSON. No OSC sequences; colours only when requested."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Fix, Severity, note
from lbdsl.core.printed import printable, visible
from lbdsl.core.span import Source, Span
from lbdsl.core.units import plural

if TYPE_CHECKING:
    from lbdsl.api.fixing import Fixed

FORMAT_VERSION = 1

SHOWN = 20
"""The maximum number of findings of a file in text output: a file that is not a recipe has one in every line."""

WRITTEN = 500
"""The maximum number of findings of a file in machine-readable output."""

_COLOURS = {"error": "31;1", "warning": "33;1", "note": "36;1", "gutter": "34;1", "bold": "1", "help": "32;1"}
_TAB = 4


@dataclass(frozen=True)
class Style:
    """How to draw: `width` in columns, `unicode` for line-drawing characters, `colour` for ANSI colours."""

    width: int = 80
    colour: bool = False
    unicode: bool = True

    def paint(self, what: str, text: str) -> str:
        return f"\x1b[{_COLOURS[what]}m{text}\x1b[0m" if self.colour and text else text


def diagnostics_text(diagnostics: Iterable[Diagnostic], style: Style) -> str:
    """All diagnostics with their source lines, separated by blank lines."""
    return "".join(_one(diagnostic, style) + "\n" for diagnostic in diagnostics)


def concise_text(diagnostics: Iterable[Diagnostic], file: str = "") -> str:
    """One line each: `file:line:column: error[LB102] message`; `file` is that of findings without a place."""
    lines = []
    for diagnostic in diagnostics:
        where = f"{printable(file)}: " if file else ""
        if diagnostic.span is not None:
            where = f"{printable(diagnostic.span.source.place(diagnostic.span.start))}: "
        lines.append(f"{where}{diagnostic.severity.value}[{diagnostic.code}] {printable(diagnostic.message)}\n")
    return "".join(lines)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """`1 error, 2 warnings`; empty when there is nothing."""
    counts = Counter(diagnostic.severity for diagnostic in diagnostics)
    return ", ".join(plural(counts[severity], severity.value) for severity in Severity if counts[severity])


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


def fixes_text(file: str, fixed: Fixed, written: bool) -> str:
    """The changes made by `check --fix`, one line per fix."""
    whole = [("fixed" if written else "would fix", item, "") for item in fixed.applied]
    whole += [("not fixed", item, ": it would cause a new error") for item in fixed.left_out]
    return "".join(
        f"{printable(file)}:{item.line}: {verb} {item.code}: {printable(item.title)}{why}\n" for verb, item, why in whole
    )


def difference(file: str, before: str, after: str) -> str:
    """A unified diff of two texts, by the lines of the language, without terminal control characters."""
    import difflib

    old, new = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (before, after))
    out = ""
    for line in difflib.unified_diff(old, new, file, file):
        out += visible(line.removesuffix("\n"), keep="\t")
        out += "\n" if line.endswith("\n") else "\n\\ No newline at end of file\n"
    return out


def _place(span: Span | None, file: str | None) -> dict[str, Any]:
    if span is None:
        return {"file": file, "line": None, "column": None, "end_line": None, "end_column": None}
    (line, column), (end_line, end_column) = span.start_line_column, span.end_line_column
    return {"file": span.source.name, "line": line, "column": column, "end_line": end_line, "end_column": end_column}


def diagnostic_json(diagnostic: Diagnostic, file: str | None = None) -> dict[str, Any]:
    """One of the `diagnostics` of `check --format json`. Lines and columns are 1-based, ends exclusive. Without a source
    position they are null, and its file is `file`."""
    fix = diagnostic.fix
    edits = [] if fix is None else [{**_place(edit.span, file), "text": edit.text} for edit in fix.edits]
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        **_place(diagnostic.span, file),
        "help": "\n".join(diagnostic.help) or None,
        "fix": None if fix is None else {"title": fix.title, "edits": edits},
        "labels": [{**_place(label.span, file), "text": label.text} for label in diagnostic.labels],
    }


def _one(diagnostic: Diagnostic, style: Style) -> str:
    severity = diagnostic.severity.value
    head = f"{severity}[{diagnostic.code}]: "
    # Paths and flags stay whole, to be copied.
    wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
    first, *rest = wrap(head + printable(diagnostic.message), style.width, subsequent_indent="  ") or [head]
    lines = [
        style.paint(severity, first[: len(head) - 2]) + style.paint("bold", first[len(head) - 2 :]),
        *(style.paint("bold", line) for line in rest),
    ]
    marks = [] if diagnostic.span is None else [_Mark(diagnostic.span, "", severity)]
    marks += (_Mark(label.span, label.text, "gutter") for label in diagnostic.labels)
    gutter = max((len(str(mark.span.end_line_column[0])) for mark in marks), default=1)
    for source in dict.fromkeys(mark.span.source for mark in marks):
        lines += _excerpt(source, [mark for mark in marks if mark.span.source is source], gutter, style)
    hints = [("help", line) for line in diagnostic.help]
    if diagnostic.fix is not None:
        hints.append(("fix", _fixed(diagnostic.fix)))
    if hints and marks:
        lines.append(" " * (gutter + 1) + style.paint("gutter", "│" if style.unicode else "|"))
    lead = " " * (gutter + 1) + "= "
    width = max(20, style.width - len(lead))
    for kind, text in hints:
        said = f"{kind}: {printable(text)}"
        first, *rest = wrap(said, width, subsequent_indent=" " * 6)
        command = re.search(r": (lbdsl [a-z]+ .*)", said)
        if rest and command:
            # On a line of its own, unbroken: it is there to be copied.
            first, *rest = (*textwrap.wrap(said[: command.start(1)], width), f"  {command[1]}")
        lines.append(lead + style.paint("help", first[: len(kind) + 1]) + first[len(kind) + 1 :])
        lines += (" " * len(lead) + line for line in rest)
    return "\n".join(lines) + "\n"


class _Mark(NamedTuple):
    """A part of a source that is marked, its note, and how it is painted."""

    span: Span
    note: str
    kind: str


def _line_of(mark: _Mark) -> int:
    return mark.span.start_line_column[0]


def _excerpt(source: Source, marks: Sequence[_Mark], gutter: int, style: Style) -> list[str]:
    """The marked lines of one source, each with its underlines below it."""
    bar, arrow = ("│", "──▶") if style.unicode else ("|", "-->")
    margin = " " * (gutter + 1)
    # A path below the working directory as a relative path, as users type it.
    near = source.place(marks[0].span.start).removeprefix(os.getcwd() + os.sep)
    lead = ":::" if marks[0].kind == "gutter" else arrow
    out = [
        f"{' ' * gutter}{style.paint('gutter', lead)} {printable(near)}",
        margin + style.paint("gutter", bar),
    ]
    previous = None
    for number, group in groupby(sorted(marks, key=_line_of), _line_of):
        if previous is not None and number > previous + 1:
            out.append(style.paint("gutter", "..."))
        out += _line(source, number, list(group), gutter, bar, style)
        previous = number
    return out


def _line(source: Source, number: int, marks: Sequence[_Mark], gutter: int, bar: str, style: Style) -> list[str]:
    text = source.line_text(number)
    room = max(20, style.width - gutter - 3)
    ordered = sorted(marks, key=lambda mark: mark.kind == "gutter")
    start, shown = _window(text, ordered[0].span.start_line_column[1] - 1, room)
    painted = style.paint("gutter", f"{number:>{gutter}} {bar}")
    out = [f"{painted} {_cells(shown)}".rstrip()]
    empty = " " * gutter + " " + style.paint("gutter", bar)
    drawn = [_drawn(mark, number, start, shown) for mark in ordered]
    across = sorted(drawn, key=lambda mark: mark.lead)
    # Marks that touch have rows of their own.
    apart = all(one.lead + one.width < other.lead for one, other in pairwise(across))
    for row in [across] if apart else [[mark] for mark in drawn]:
        out += [f"{empty} {line}".rstrip() for line in _underlined(row, room, style)]
    return out


class _Drawn(NamedTuple):
    """A mark below a source line: where it begins and how wide it is, in columns."""

    lead: int
    width: int
    kind: str
    note: str


def _drawn(mark: _Mark, number: int, start: int, shown: str) -> _Drawn:
    begin = mark.span.start_line_column[1] - 1 - start
    end_line, end_column = mark.span.end_line_column
    end = end_column - 1 - start if end_line == number else len(shown)
    begin, end = max(0, min(begin, len(shown))), max(0, min(end, len(shown)))
    return _Drawn(_width(shown[:begin]), max(1, _width(shown[begin:end])), mark.kind, printable(mark.note))


def _underlined(row: Sequence[_Drawn], room: int, style: Style) -> list[str]:
    """A row's underlines. The last mark's note is beside them if there is room; other notes are below, each at its mark."""
    line, column = "", 0
    for mark in row:
        line += " " * (mark.lead - column) + style.paint(mark.kind, ("^" if mark.kind != "gutter" else "-") * mark.width)
        column = mark.lead + mark.width
    below = [mark for mark in row if mark.note]
    if below and below[-1] is row[-1] and column + 1 + len(row[-1].note) <= room:
        line += f" {style.paint(row[-1].kind, row[-1].note)}"
        below.pop()
    out = [line]
    for mark in reversed(below):
        indent = " " * min(mark.lead, max(0, room - len(mark.note)))
        out += [indent + style.paint(mark.kind, text) for text in textwrap.wrap(mark.note, max(20, room - len(indent)))]
    return out


def _window(text: str, column: int, room: int) -> tuple[int, str]:
    """The start column and text of the part of a line that is shown: a long line is cut around the mark."""
    if _width(text) <= room:
        return 0, text
    start = max(0, min(column - room // 3, len(text) - room))
    # Wide characters take two columns each.
    while _width(text[start:column]) > 2 * room // 3:
        start += 1
    shown = text[start : start + room]
    while _width(shown) > room:
        shown = shown[:-1]
    return start, shown


def _fixed(fix: Fix) -> str:
    """The fix's title and the fixed line; only the title when the fix changes more than one line."""
    span = fix.edits[0].span
    line = span.start_line_column[0]
    text = span.source.line_text(line)
    base = span.start - (span.start_line_column[1] - 1)
    spans = [edit.span for edit in fix.edits]
    lines = {(each.source, at[0]) for each in spans for at in (each.start_line_column, each.end_line_column)}
    if len(lines) > 1 or len(text) > 90 or any("\n" in edit.text for edit in fix.edits):
        return fix.title
    for edit in sorted(fix.edits, key=lambda edit: edit.span.start, reverse=True):
        text = text[: edit.span.start - base] + edit.text + text[edit.span.end - base :]
    return f"{fix.title}: `{text.strip()}`" if text.strip() else fix.title


def _cells(text: str) -> str:
    """A source line as it is shown."""
    return visible(text.replace("\t", " " * _TAB))


def _width(text: str) -> int:
    """The number of columns that a part of a source line takes."""
    shown = _cells(text)
    if shown.isascii():
        return len(shown)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in shown)
