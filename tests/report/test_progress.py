"""Progress where there is no terminal: one line for a short stage, and an ETA that what was slow at first does not set."""

from __future__ import annotations

import io
import time

import pytest

from lbdsl.report.console import make_console
from lbdsl.report.progress import TerminalProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def lines(clock: list[float], steps: list[tuple[float, float]]) -> list[str]:
    """What is written of a stage of 100 units; `steps` are seconds, and how much is done after them."""
    file = io.StringIO()
    with TerminalProgress(make_console(file, 100)).stage("asking") as report:
        for seconds, done in steps:
            clock[0] += seconds
            report(done, 100)
    return file.getvalue().splitlines()


def test_a_short_stage_has_one_line(clock: list[float]) -> None:
    assert lines(clock, [(1, 0), (4, 50), (4, 100)]) == ["asking ..."]


def test_a_long_one_says_how_long_it_took(clock: list[float]) -> None:
    assert lines(clock, [(0, 0), (20, 50), (20, 100)]) == [
        "asking ...",
        "asking: 50 % after 20 s, eta 20 s",
        "asking: 100 % after 40 s",
        "asking: done in 40 s",
    ]


def test_a_slow_beginning_does_not_set_the_eta(clock: list[float]) -> None:
    """The first unit takes 30 s, for weights are read, and each further one 4 s: 7 minutes in all, not 54."""
    found = lines(clock, [(1, 0), (30, 1), *[(4, done) for done in range(2, 101)]])
    assert found[1] == "asking: 1 % after 31 s"
    etas = {int(line.split(": ")[1].split(" %")[0]): line.split("eta ")[1] for line in found if "eta" in line}
    assert min(etas) <= 5
    assert etas[min(etas)] in ("6 min", "7 min")
    assert all(share >= 3 for share in etas)


def test_work_that_is_taken_up_counts_from_there(clock: list[float]) -> None:
    found = lines(clock, [(0, 50), (10, 60), (10, 70)])
    assert found[1:3] == ["asking: 60 % after 10 s, eta 40 s", "asking: 70 % after 20 s, eta 30 s"]
