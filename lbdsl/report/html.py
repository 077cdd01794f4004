"""Terminal output as text, and as HTML for notebooks."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from lbdsl.report.bench import render_bench, render_calibration
from lbdsl.report.console import make_console
from lbdsl.report.estimate import render_estimate
from lbdsl.report.export import render_export
from lbdsl.report.plan import render_plan
from lbdsl.report.push import render_push
from lbdsl.report.report import render_quality, render_report
from lbdsl.report.scores import render_scores
from lbdsl.report.verify import render_verified

WIDTH = 100
_FORMAT = '<pre style="line-height: 1.25; white-space: pre; overflow-x: auto">{code}</pre>'


_DRAW: Mapping[str, Callable[[Any, Console], None]] = {
    "Planned": lambda result, console: render_plan(result.plan, console),
    "Applied": lambda result, console: render_report(result.record, result.folder, console),
    "Judged": lambda result, console: render_quality(result.quality, result.asserts, console),
    "Benched": lambda result, console: render_bench(result.to_json(), console),
    "Calibrated": lambda result, console: render_calibration(result.to_json(), console),
    "Estimated": render_estimate,
    "Exported": render_export,
    "Pushed": render_push,
    "Verified": render_verified,
    "Measured": render_scores,
}
"""Keyed by class name: importing the API's classes here would be a circular import, since they use this module."""


def draw(result: Any, console: Console) -> None:
    """Print an API result."""
    _DRAW[type(result).__name__](result, console)


def text_of(result: Any) -> str:
    """The terminal output of an API result, without colours."""
    written = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8", newline="")
    draw(result, make_console(written))
    written.seek(0)
    return written.read().rstrip("\n")


def html_of(result: Any) -> str:
    """The terminal output of an API result, in a `pre` element with inline styles."""
    console = Console(
        record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False, highlight=False, markup=False, emoji=False
    )
    draw(result, console)
    return console.export_html(inline_styles=True, code_format=_FORMAT)
