"""Writing results: data on stdout, messages on stderr."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

import click

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.printed import printable, visible
from lbdsl.core.processes import process_number

if TYPE_CHECKING:
    from lbdsl.report.diagnostics import Style


_warning_text = warnings.formatwarning


def show_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics on stderr: the first `SHOWN` of each text, and how many more there are."""
    found = tuple(diagnostics)
    # Of several processes the first says it.
    if found and process_number() == 0:
        from lbdsl.report.diagnostics import capped, diagnostics_text

        for item in capped((d.span.source.name if d.span is not None else "", d) for d in found):
            text = diagnostics_text(item.found, output_style(apart=True)) + item.rest
            click.echo(writable(text, sys.stderr), nl=False, err=True, color=True)


def write_text(text: str) -> None:
    """Write to standard output, as UTF-8 with LF regardless of the locale: where it is redirected to a file, exactly."""
    shown = visible(text) if sys.stdout.isatty() else text
    click.echo(shown.encode(errors="surrogateescape"), nl=False)


def tell(line: str) -> None:
    """A line of a message, on standard error."""
    click.echo(writable(printable(line), sys.stderr), err=True)


class _Logged(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802
        return visible(super().getMessage())


def show_logs_as_text() -> None:
    """What libraries log and warn of is text, whatever of a model they quote."""
    logging.setLogRecordFactory(_Logged)
    warnings.formatwarning = lambda *of, **more: visible(_warning_text(*of, **more))


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def give(result: Any, as_json: bool) -> None:
    """A result on standard output: as JSON, or drawn."""
    if as_json:
        print_json(result.to_json())
        return
    from lbdsl.report.console import stdout_console
    from lbdsl.report.results import draw

    draw(result, stdout_console())


def output_style(apart: bool = False) -> Style:
    """The output style: colours and line-drawing characters only when the terminal supports them."""
    from lbdsl.report.diagnostics import Style

    stream = sys.stderr if apart else sys.stdout
    dumb = os.environ.get("TERM") == "dumb"
    terminal = stream.isatty()
    colour = terminal and not dumb and not os.environ.get("NO_COLOR")
    width = min(100, max(40, shutil.get_terminal_size().columns)) if terminal else 80
    drawing = (stream.encoding or "ascii").lower().replace("-", "").startswith("utf")
    return Style(width, colour, drawing and not dumb)


def writable(text: str, stream: TextIO | None = None) -> str:
    """The text with characters replaced that a stream, by default standard output, cannot encode."""
    encoding = (stream or sys.stdout).encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
