"""Diagnostics as text."""

from __future__ import annotations

from lbdsl.core.diagnostic import error
from lbdsl.report.diagnostics import Style, diagnostics_text


def test_a_command_in_a_help_is_never_broken() -> None:
    command = "lbdsl calibrate models/a/long/path/to/a/model --engine transformers --contexts 512,4Ki --batches 1,8"
    said = error("LB353", "`latency(512, 1)` has no profile", help=(f"measure it: {command}", "a help " * 30))
    lines = diagnostics_text([said], Style(width=60)).splitlines()
    assert f"    {command}" in [line[2:] for line in lines]
    assert max(len(line) for line in lines if command not in line) <= 60
    assert "= help: measure it:" in lines[1]


def test_a_short_one_stays_on_its_line() -> None:
    text = diagnostics_text([error("LB353", "no profile", help="measure it: lbdsl calibrate MODEL")], Style(width=60))
    assert "= help: measure it: lbdsl calibrate MODEL" in text


def test_a_path_in_a_message_stays_whole() -> None:
    path = f"/{'long/' * 20}nope.txt"
    assert path in diagnostics_text([error("LB441", f"there is no file {path}")], Style(width=60)).splitlines()[1]
