"""Consoles: data on stdout, messages on stderr. Plain text without escape sequences when not on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO, Any, Literal

from rich import box
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lbdsl.core.printed import printable, visible

NARROWEST, USUAL, WIDEST = 40, 80, 120
_HANGING, _DEEPEST = 4, 12
_DRAWN = "▁▂▃▄▅▆▇█▪·±Δ→…×─│┌└━╸"


def stdout_console() -> Console:
    """For data: plans, reports, tables."""
    return make_console(sys.stdout)


def stderr_console() -> Console:
    """For messages and progress."""
    return make_console(sys.stderr)


class TextConsole(Console):
    """A console on which text is only text, and that survives a broken pipe, as in `| head`: later output is discarded, and
    the work continues."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Styles and movements of the cursor are rich's own; what the text has of them is shown."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def render_str(self, text: str, **how: Any) -> Text:
        """A string is one line."""
        return super().render_str(printable(text), **how)

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        self.quiet = True


def make_console(file: IO[str], width: int | None = None) -> Console:
    """A console of 80 to 120 columns, on a terminal of 40 to 120. It writes no escape sequences unless `file` is a
    terminal, `NO_COLOR` is not set and `TERM` is not `dumb`. Characters that the file's encoding cannot express become `?`
    instead of an error."""
    reconfigure = getattr(file, "reconfigure", None)
    if reconfigure is not None and getattr(file, "errors", None) == "strict":
        reconfigure(errors="replace")
    lively = file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    console = TextConsole(
        file=file,
        force_terminal=lively,
        force_interactive=lively,
        force_jupyter=False,
        no_color=not lively,
        color_system="auto" if lively else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    narrowest = NARROWEST if file.isatty() else USUAL
    console.width = width if width is not None else min(max(console.width, narrowest), WIDEST)
    return console


def write_line(console: Console, line: Text) -> None:
    """Print a line that was laid out for 80 columns; on a narrower console what does not fit goes on indented lines below,
    broken between the columns of a table where it can be."""
    line.rstrip()
    indent = min(_DEEPEST, _margin(line) + _HANGING)
    while line.cell_len > console.width < USUAL:
        column = line.plain.rstrip().rfind("  ", _margin(line), console.width)
        first = line[:column] if column > 0 else line.wrap(console, console.width)[0]
        rest = line[len(first) :]
        print_whole(console, first)
        line = Text(" " * indent).append_text(rest[_margin(rest) :])
    print_whole(console, line)


def _margin(line: Text) -> int:
    return len(line.plain) - len(line.plain.lstrip(" "))


def print_whole(console: Console, line: Text) -> None:
    """Print a line that is never broken."""
    line.rstrip()
    console.print(line, no_wrap=True, overflow="ignore", crop=False)


def ascii_only(console: Console) -> bool:
    """True when the terminal is dumb or its encoding cannot express the characters used in plans and reports."""
    if os.environ.get("TERM") == "dumb":
        return True
    try:
        _DRAWN.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def headed_table(first: str, titles: Iterable[str], justify: Literal["left", "right"] = "left") -> Table:
    """A table with a line below its titles, and columns of numbers after the first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, justify=justify, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    return table
