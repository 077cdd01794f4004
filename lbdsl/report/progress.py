"""Progress on stderr: a bar with ETA on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lbdsl.core.printed import printable
from lbdsl.core.progress import Report
from lbdsl.core.units import duration_text
from lbdsl.report.console import USUAL, stderr_console

PLAIN_SECONDS = 10.0


class TerminalProgress:
    """Draws the stages of long work on `console`, by default that of stderr."""

    def __init__(self, console: Console | None = None, quiet: bool = False):
        self._console = stderr_console() if console is None else console
        self._quiet = quiet

    def say(self, text: str) -> None:
        if not self._quiet:
            # Leave line wrapping to the terminal, so that long commands and paths can be copied.
            self._console.print(printable(text), soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        if self._quiet:
            yield lambda done, total, note="": None
        elif self._console.is_terminal:
            yield from self._bar(title)
        else:
            yield from self._lines(title)

    def _bar(self, title: str) -> Iterator[Report]:
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}", markup=False),
        )
        if self._console.width < USUAL:
            # rich would cut every column.
            columns = (columns[0], columns[2], *columns[4:6])
        with Progress(*columns, console=self._console, transient=False) as bar:
            task = bar.add_task(printable(title), total=None, note="")

            def report(done: float, total: float, note: str = "") -> None:
                bar.update(task, completed=done, total=total, note=printable(note))

            yield report

    def _lines(self, title: str) -> Iterator[Report]:
        started = last = time.monotonic()
        first: tuple[float, float] | None = None
        self.say(f"{title} ...")

        def report(done: float, total: float, note: str = "") -> None:
            nonlocal last, first
            now = time.monotonic()
            # Measure the rate from the first report: resumed work does not start at 0, and loading must not count.
            first = first or (done, now)
            if now - last < PLAIN_SECONDS or total <= 0:
                return
            last = now
            rate = (done - first[0]) / (now - first[1]) if now > first[1] else 0.0
            eta = f", eta {duration_text((total - done) / rate)}" if rate > 0 and done < total else ""
            tail = f", {note}" if note else ""
            self.say(f"{title}: {100 * done / total:.0f} % after {duration_text(now - started)}{eta}{tail}")

        yield report
        self.say(f"{title}: done in {duration_text(time.monotonic() - started)}")
