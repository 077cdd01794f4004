"""What the terminal shows, as HTML for notebooks."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from lbdsl.api.applying import Applied
from lbdsl.api.evaluating import Judged
from lbdsl.api.planning import Measured, Planned
from lbdsl.view.plan import render_plan
from lbdsl.view.report import render_quality, render_report
from lbdsl.view.scores import render_scores

WIDTH = 100
_FORMAT = '<pre style="line-height: 1.25; white-space: pre; overflow-x: auto">{code}</pre>'


def html_of(result: Any) -> str:
    """The picture of a result of the API, in a `pre` element with inline styles."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False, highlight=False)
    match result:
        case Planned():
            render_plan(result.plan, console)
        case Applied():
            render_report(result.record, result.folder, console)
        case Judged():
            render_quality(result.quality, result.asserts, console)
        case Measured():
            render_scores(result, console)
        case _:
            raise TypeError(f"no picture of {type(result).__name__}")
    return console.export_html(inline_styles=True, code_format=_FORMAT)
