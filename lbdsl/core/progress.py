"""Progress of long work. `lbdsl.report.progress` displays it; everything else only reports it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable


class Report(Protocol):
    """Called during the work: `done` of `total` units (any unit proportional to time, for the ETA), and a short note."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


@runtime_checkable
class Progress(Protocol):
    """Receives progress: stages of work, one after the other, each with a title."""

    def stage(self, title: str) -> AbstractContextManager[Report]: ...

    def say(self, text: str) -> None:
        """Show the user one line that is not progress of a stage."""
        ...


AnyProgress = Progress | Callable[[str, float, float, str], object]
"""What the API accepts: a Progress, or a function as in `Calling`."""


class Calling:
    """Calls a function at every step, `call(stage, done, total, note)`, and for lines, `call("", 0, 0, line)`."""

    def __init__(self, call: Callable[[str, float, float, str], object]):
        self._call = call

    def stage(self, title: str) -> AbstractContextManager[Report]:
        def report(done: float, total: float, note: str = "") -> None:
            self._call(title, done, total, note)

        return nullcontext(report)

    def say(self, text: str) -> None:
        self._call("", 0, 0, text)


def progress_of(progress: AnyProgress | None) -> Progress:
    """The Progress for an API argument: a Progress, a function as in `Calling`, or None."""
    if progress is None:
        return Calling(lambda *said: None)
    return progress if isinstance(progress, Progress) else Calling(progress)


def unreported(done: float, total: float, note: str = "") -> None:
    """A Report that nobody sees."""
