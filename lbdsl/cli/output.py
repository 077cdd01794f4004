"""Writing results: data on stdout, messages on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.processes import process_number


def show_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics on stderr: the first `SHOWN` of each text, and how many more there are."""
    found = tuple(diagnostics)
    # Of several processes the first says it.
    if found and process_number() == 0:
        from lbdsl.report.capped import capped
        from lbdsl.report.console import stderr_console
        from lbdsl.report.diagnostics import render_diagnostics

        for item in capped((d.span.source.name if d.span is not None else "", d) for d in found):
            render_diagnostics(item.found, stderr_console())
            click.echo(item.rest, nl=False, err=True)


def write_text(text: str) -> None:
    """Write to standard output, as UTF-8 with LF regardless of the locale: it may be redirected to a file."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
