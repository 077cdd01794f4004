"""Writing results: data on stdout, messages on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from lbdsl.core.diagnostic import Diagnostic


def show_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """All of them on stderr, as people read them."""
    found = tuple(diagnostics)
    if found:
        from lbdsl.view.console import stderr_console
        from lbdsl.view.diagnostics import render_diagnostics

        render_diagnostics(found, stderr_console())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
