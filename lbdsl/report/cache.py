"""What lies in the cache folders, as a table."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from lbdsl.api.caching import Cached
from lbdsl.core.units import bytes_text, duration_text, plural
from lbdsl.report.console import printable

SHOWN = 10
"""The most files of others that are named."""

DAY = 86_400


def render_cached(found: Cached, console: Console) -> None:
    """Print one row a kind, the whole, and what is not lbdsl's."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("kind", "", "items", "size", "oldest", "last used"):
        table.add_column(title, justify="left" if title in ("kind", "") else "right", no_wrap=title != "")
    for kind, entries in found.by_kind():
        ages = (_age_text(min(entry.written for entry in entries)), _age_text(max(entry.used for entry in entries)))
        size = bytes_text(sum(entry.bytes for entry in entries))
        table.add_row(kind.name, kind.what, str(len(entries)), size, *ages)
    table.add_row("all", "", str(len(found.entries)), bytes_text(found.bytes), "", "")
    console.print(table)
    for root, path in found.roots.items():
        console.print(printable(f"{root}: {path}"), soft_wrap=True)
    if found.foreign:
        console.print("not lbdsl's, and left:")
        for path in found.foreign[:SHOWN]:
            console.print(printable(f"  {path}"), soft_wrap=True)
        if len(found.foreign) > SHOWN:
            console.print(f"  and {plural(len(found.foreign) - SHOWN, 'other')}")


def _age_text(then: float) -> str:
    age = max(0.0, time.time() - then)
    return f"{age / DAY:.0f} d" if age >= 2 * DAY else duration_text(age)
