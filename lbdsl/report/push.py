"""Terminal output of `lbdsl push`: the files that go up, those that do not, and where they are."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from lbdsl.api.pushing import Pushed
from lbdsl.core.units import bytes_text
from lbdsl.report.console import print_whole, printable


def render_push(pushed: Pushed, console: Console) -> None:
    """Print the repository, its files with their sizes, and the names of those that stay."""
    kind = "private" if pushed.private else "public"
    lines = [Text(f"{pushed.repository} ({kind}), {bytes_text(pushed.bytes)}", style="bold")]
    width = max(len(file.name) for file in pushed.files)
    lines += (Text(f"  {printable(file.name):<{width}}  {bytes_text(file.bytes):>9}") for file in pushed.files)
    lines += (Text(f"  {printable(name):<{width}}  stays here", style="dim") for name in pushed.left)
    lines.append(Text(pushed.url or "Nothing was sent (--dry-run)."))
    for line in lines:
        print_whole(console, line)
