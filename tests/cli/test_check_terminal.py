"""`check` and `explain` on a terminal: colours and line drawing, in its width; none of it where they are not wanted."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

import pytest

from lbdsl.cli.app import main
from lbdsl.plan.file import save_plan
from lbdsl.plan.lengths import with_lengths
from lbdsl.session.saved_recipe import recipe_in
from lbdsl.solve.case import Case
from tests.plan_cases import joint_loss, plan_of, smollm2_facts

ROOT = Path(__file__).parents[2]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(*arguments: str, columns: int | None = None, **environment: str) -> str:
    """What `lbdsl` writes to a pseudo terminal, in a process forked from this one."""
    process, ours = pty.fork()
    if not process:
        try:
            os.chdir(ROOT)
            os.environ.pop("NO_COLOR", None)
            if columns is not None:
                os.environ.pop("COLUMNS", None)
                fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
            os.environ.update({"TERM": "xterm", "LANG": "C.UTF-8", **environment})
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
            main(list(arguments))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    data = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        data += part
    os.waitpid(process, 0)
    os.close(ours)
    return data.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_width_and_colours(columns: int) -> None:
    for arguments in (("check", "tests/recipes/typo.lbr"), ("explain", "LB102"), ("explain", "swa")):
        text = on_a_terminal(*arguments, COLUMNS=str(columns))
        assert "\x1b[" in text
        plain = ANSI.sub("", text)
        assert "\x1b" not in plain
        # Code is never wrapped, and the last line is short anyway.
        drawn = [line for line in plain.splitlines() if not {"│", "says"} & set(line.split())]
        assert max(map(len, drawn)) <= columns


def test_no_colours_where_they_are_not_wanted() -> None:
    assert "\x1b" not in on_a_terminal("check", "tests/recipes/typo.lbr", NO_COLOR="1")
    dumb = on_a_terminal("check", "tests/recipes/typo.lbr", TERM="dumb")
    assert "\x1b" not in dumb
    assert "│" not in dumb
    assert " | " in dumb


def test_a_terminal_that_does_not_know_its_width() -> None:
    assert "help: metrics: `influence`, `kl`, `nll`, `recall`, `sensitivity`" in ANSI.sub(
        "", on_a_terminal("check", "tests/recipes/typo.lbr", COLUMNS="")
    )


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_plan_has_the_width_of_the_terminal(tmp_path: Path, columns: int) -> None:
    plan = plan_of("layers 0-1 keep\nelse swa(window=256, sinks=4)", smollm2_facts(), joint=joint_loss(0.47, 0.41))
    settled = with_lengths(Case(recipe_in(plan), smollm2_facts())).unwrap().recipe
    save_plan(plan.model_copy(update={"measure": settled.measure}), tmp_path / "a.lbplan")
    lines = ANSI.sub("", on_a_terminal("show", str(tmp_path / "a.lbplan"), columns=columns)).splitlines()
    assert columns - 12 < max(map(len, lines)) <= columns


def test_progress_on_a_narrow_terminal_is_not_cut() -> None:
    from lbdsl.report.console import make_console
    from lbdsl.report.progress import TerminalProgress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for columns in (60, 100):
        console = make_console(file := Terminal(), columns)
        with TerminalProgress(console).stage("measuring the whole plan") as report:
            report(1, 1, "sequences 4-4 of 4, predictions")
        written = ANSI.sub("", file.getvalue())
        assert "measuring the whole plan" in written
        assert "100 %" in written
        assert "…" not in written
