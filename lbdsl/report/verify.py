"""Terminal output of `lbdsl verify`: what was looked at, and whether it holds."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from lbdsl.api.verifying import Verified
from lbdsl.report.console import printable


def render_verified(found: Verified, console: Console) -> None:
    """Print a line for each check."""
    console.print(Text(printable(str(found.folder)), style="bold"))
    for check in found.checks:
        mark = Text("  holds   " if check.holds else "  differs ", style="green" if check.holds else "bold red")
        console.print(mark.append(f"{printable(check.what)}: {printable(check.said)}", style="default"), soft_wrap=True)
