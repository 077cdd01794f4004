"""How long work says how far it is. The view draws it; everything else only reports."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Report(Protocol):
    """Called as work goes on: `done` of `total` units (any unit that makes an honest ETA), and a short note."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


class Progress(Protocol):
    """One stage of work after the other, each with a title."""

    def stage(self, title: str) -> AbstractContextManager[Report]: ...

    def say(self, text: str) -> None:
        """One line for the user that is not progress of a stage."""
        ...


class Silent:
    """Reports nothing."""

    def stage(self, title: str) -> AbstractContextManager[Report]:
        def report(done: float, total: float, note: str = "") -> None:
            return None

        return nullcontext(report)

    def say(self, text: str) -> None:
        return None
