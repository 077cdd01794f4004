"""Terminal output of `plan --target`: which engines can serve a plan's result."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lbdsl.report.console import printable
from lbdsl.workbench.targets import Target

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def render_targets(targets: Sequence[Target], console: Console) -> None:
    """Print one paragraph per engine: every finding with its code and help."""
    for target in targets:
        console.print()
        for finding in target.findings:
            _write(
                console,
                f" {finding.severity.value}[{finding.code}] {printable(finding.message)}",
                4,
                _STYLES[finding.severity.value],
            )
            for text in finding.help:
                _write(console, f"    help: {printable(text)}", 10, "")


def _write(console: Console, text: str, indent: int, style: str) -> None:
    for line in textwrap.wrap(text, console.width, subsequent_indent=" " * indent, break_on_hyphens=False):
        console.print(Text(line, style=style), no_wrap=True, overflow="ignore", crop=False)
