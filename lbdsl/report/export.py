"""Terminal output of `lbdsl export`: the written files, and how to load them."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from lbdsl.core.units import bytes_text
from lbdsl.report.console import print_whole, printable
from lbdsl.session.exporting import Exported


def render_export(done: Exported, console: Console) -> None:
    """Print the folder, its files with their sizes, and the line that loads it."""
    lines = [Text(printable(str(done.folder)), style="bold")]
    width = max(len(file.name) for file in done.files)
    for file in done.files:
        shared = "  linked, uses no further disk space" if file.linked else ""
        lines.append(Text(f"  {printable(file.name):<{width}}  {bytes_text(file.bytes):>9}{shared}"))
    lines += [Text(), Text(f"Load it ({done.engine}):", style="bold")]
    lines += (Text(f"  {printable(line)}") for line in done.how_to_load.splitlines())
    for line in lines:
        print_whole(console, line)
