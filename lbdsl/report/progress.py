"""Progress on stderr: a bar with ETA on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from lbdsl.core.printed import printable
from lbdsl.core.progress import Report
from lbdsl.core.units import duration_text
from lbdsl.report.console import USUAL, stderr_console

PLAIN_SECONDS = 10.0
"""Between two lines of a stage, where there is no terminal; a shorter stage has one line alone."""

FIRST_SHARE = 0.03
"""The share of the work after which an ETA is given: the first steps load weights and warm up."""


class _Eta:
    """How long the rest takes, at the rate of the last half of what is done: a slow beginning does not count for long."""

    def __init__(self) -> None:
        self._reports: deque[tuple[float, float]] = deque()
        self._first = 0.0

    def __call__(self, done: float, total: float, now: float) -> str:
        """Of work that has come so far; empty where it is not known yet."""
        if not self._reports:
            self._first = done  # Work that was taken up does not start at 0.
        if not self._reports or done > self._reports[-1][0]:
            self._reports.append((done, now))
        came = done - self._first
        while len(self._reports) > 2 and self._reports[1][0] <= self._first + came / 2:
            self._reports.popleft()
        since, at = self._reports[0]
        if total <= done or came < FIRST_SHARE * total or now <= at or done <= since:
            return ""
        return f"eta {duration_text((total - done) * (now - at) / (done - since))}"


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
            TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[note]}", markup=False),
        )
        if self._console.width < USUAL:
            # rich would cut every column.
            columns = (columns[0], columns[2], columns[4])
        eta = _Eta()
        with Progress(*columns, console=self._console, transient=False) as bar:
            task = bar.add_task(printable(title), total=None, note="", eta="")

            def report(done: float, total: float, note: str = "") -> None:
                left = eta(done, total, time.monotonic())
                bar.update(task, completed=done, total=total, note=printable(note), eta=left)

            yield report

    def _lines(self, title: str) -> Iterator[Report]:
        started = last = time.monotonic()
        eta = _Eta()
        self.say(f"{title} ...")

        def report(done: float, total: float, note: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            left = eta(done, total, now)
            if now - last < PLAIN_SECONDS or total <= 0:
                return
            last = now
            said = f"{title}: {100 * done / total:.0f} % after {duration_text(now - started)}"
            self.say(", ".join(filter(None, (said, left, note))))

        yield report
        took = time.monotonic() - started
        if took >= PLAIN_SECONDS:
            self.say(f"{title}: done in {duration_text(took)}")
