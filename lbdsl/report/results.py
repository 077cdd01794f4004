"""What the API's results look like: on a terminal, as plain text, and as HTML for notebooks."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbdsl.core.printed import printable
from lbdsl.core.units import bytes_text, duration_text, plural
from lbdsl.plan.estimate import REACHED
from lbdsl.report.bench import render_bench, render_calibration
from lbdsl.report.console import TextConsole, headed_table, make_console, print_whole
from lbdsl.report.plan import render_plan
from lbdsl.report.report import render_quality, render_report

if TYPE_CHECKING:
    from lbdsl.api.caching import Cached
    from lbdsl.api.estimating import Estimated
    from lbdsl.api.planning import Measured
    from lbdsl.api.pushing import Pushed
    from lbdsl.api.verifying import Verified
    from lbdsl.session.exporting import Exported

WIDTH = 100
DAY = 86_400
FOREIGN = 10
"""The most files of others in the cache folders that are named."""

_FORMAT = '<pre style="line-height: 1.25; white-space: pre; overflow-x: auto">{code}</pre>'

HELD = {
    "whole": "the whole model",
    "whole, cached": "the whole, cached teacher",
    "shared": "a share (FSDP2)",
    "shared, cached": "a share, cached teacher",
}
"""What each process holds, by the name of a way to heal on several devices."""


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
    console = TextConsole(
        record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False, highlight=False, markup=False, emoji=False
    )
    draw(result, console)
    return console.export_html(inline_styles=True, code_format=_FORMAT)


def render_scores(measured: Measured, console: Console) -> None:
    """Print a table with one row per layer and one column per score, with standard errors."""
    if not measured.scores:
        console.print("The recipe asks for no measured score.")
        return
    cells: dict[int, dict[tuple[str, str], str]] = {}
    for request, found in measured.scores.items():
        error = "" if math.isnan(found.stderr) else f" ±{found.stderr:.4f}"
        cells.setdefault(request.layer, {})[request.metric, request.action] = f"{found.value:+.4f}{error}"
    names = sorted({name for row in cells.values() for name in row})
    table = headed_table("layer", (f"{metric}({action})" if action else metric for metric, action in names), "right")
    for layer, row in sorted(cells.items()):
        table.add_row(str(layer), *(row.get(name, "") for name in names))
    console.print(table)
    if measured.on is not None:
        on = f"{measured.on.tokens} tokens of {measured.on.data}"
        console.print(f"mean over {on}; ± one standard error, clustered by sequence")
        if measured.on.estimated:
            console.print(f"estimated by a screen: {', '.join(measured.on.estimated)}")


def render_estimate(found: Estimated, console: Console) -> None:
    """Print what each process holds of the model, in a table of ways to heal, and the time that each stage takes."""
    devices, heal = found.devices, found.recipe.heal
    memory = f", {devices.memory / 1e9:.0f} GB each" if devices.memory else ""
    rate = f", {devices.flops / 1e12:.0f} TFLOP/s" if devices.flops else ""
    what = f"{devices.count} x {devices.kind}{memory}{rate}"
    if devices.kind == "cpu":
        what = f"{devices.count} process{'es' if devices.count > 1 else ''} on this machine's CPU"
    console.print(Text(f"lbdsl plan --estimate · {Path(found.recipe.path).name} · {what}", style="bold"))
    for stage in heal.runs if heal is not None else ():
        steps = f"{plural(stage.steps, 'step')} of {stage.batch} x {stage.seq} tokens"
        console.print(f" {stage.name}: {stage.method.node}, {steps}")
    own = None if heal is None else "whole, cached" if any(s.teacher == "cached" for s in heal.runs) else "whole"
    if found.raised:
        console.print(Text(" with a batch that so many processes can share; `apply` asks for it", style="yellow"))
    width = max(len(HELD[name]) for name in found.ways)
    machine = any(way.machine_bytes for way in found.ways.values())
    heading = f" {'each process holds':<{width}}  {'a device':>10}" + (f"  {'machine':>10}" if machine else "")
    console.print(Text(heading + f"  {'disk':>10}", style="dim"))
    for name, way in found.ways.items():
        beside = f"  {bytes_text(way.machine_bytes):>10}" if machine else ""
        line = Text(f" {HELD[name]:<{width}}  {bytes_text(way.device_bytes):>10}{beside}  {bytes_text(way.disk_bytes):>10}")
        if way.fits is not None:
            line.append("  fits" if way.fits else "  does not fit", style="green" if way.fits else "red")
        if name == own:
            line.append(" *")
        console.print(line)
    parts = [
        f"{name} {duration_text(3600 * hours)}" if hours is not None else f"{name} {found.flops[name]:.2g} FLOPs"
        for name, hours in found.hours.items()
        if found.flops[name]
    ]
    known = all(hours is not None for hours in found.hours.values())
    said = f", at {REACHED:.0%} of the devices' rate" if known else ""
    console.print(f" {', '.join(parts)}{said}")
    star = "* as in the recipe; " if own in found.ways else ""
    trained = f"{star}as if every layer were trained; " if heal is not None else ""
    console.print(Text(f" {trained}without tasks and needles", style="dim"))


def render_export(done: Exported, console: Console) -> None:
    """Print the folder, its files with their sizes, and the line that loads it."""
    print_whole(console, Text(printable(str(done.folder)), style="bold"))
    width = max(len(file.name) for file in done.files)
    for file in done.files:
        shared = "  linked, uses no further disk space" if file.linked else ""
        print_whole(console, Text(f"  {printable(file.name):<{width}}  {bytes_text(file.bytes):>9}{shared}"))
    print_whole(console, Text())
    print_whole(console, Text(f"Load it ({done.engine}):", style="bold"))
    for line in done.how_to_load.splitlines():
        print_whole(console, Text(f"  {printable(line)}"))


def render_push(pushed: Pushed, console: Console) -> None:
    """Print the repository, its files with their sizes, the names of those that stay, and where they are now."""
    kind = "private" if pushed.private else "public"
    print_whole(console, Text(f"{pushed.repository} ({kind}), {bytes_text(pushed.bytes)}", style="bold"))
    width = max(len(file.name) for file in pushed.files)
    for file in pushed.files:
        print_whole(console, Text(f"  {printable(file.name):<{width}}  {bytes_text(file.bytes):>9}"))
    for name in pushed.left:
        print_whole(console, Text(f"  {printable(name):<{width}}  stays here", style="dim"))
    print_whole(console, Text(pushed.url or "Nothing was sent (--dry-run)."))


def render_verified(found: Verified, console: Console) -> None:
    """Print the folder, and for each check whether it holds."""
    console.print(Text(printable(str(found.folder)), style="bold"))
    for check in found.checks:
        mark = Text("  holds   " if check.holds else "  differs ", style="green" if check.holds else "bold red")
        console.print(mark.append(f"{printable(check.what)}: {printable(check.said)}", style="default"), soft_wrap=True)


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
        for path in found.foreign[:FOREIGN]:
            console.print(printable(f"  {path}"), soft_wrap=True)
        if len(found.foreign) > FOREIGN:
            console.print(f"  and {plural(len(found.foreign) - FOREIGN, 'other')}")


def _age_text(then: float) -> str:
    age = max(0.0, time.time() - then)
    return f"{age / DAY:.0f} d" if age >= 2 * DAY else duration_text(age)


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
    "Cached": render_cached,
}
"""Keyed by class name: importing the API's classes here would be a circular import, since they use this module."""
