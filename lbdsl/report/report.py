"""The report of `apply` and `eval`: quality, healing, gates, and where the result is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbdsl.artifact.record import Record, cautions_of, healing_stages, packed_weights
from lbdsl.core.printed import as_string, printable
from lbdsl.core.units import count_text
from lbdsl.plan.schema import AssertResult
from lbdsl.plan.words import part_text, parts_of, quality_rows, shares_of
from lbdsl.report.bench import render_bench
from lbdsl.report.console import ascii_only, headed_table, write_line
from lbdsl.report.plan_tables import result_lines
from lbdsl.report.strip import LEVELS

ASCII_BARS = "_.-=+*#@"
SPARKLINE = 20
"""The number of points of the healing curve, so that its line fits in 80 columns."""


def render_report(record: Record, folder: Path, console: Console) -> None:
    """Print the result of `apply`: size, healing with its loss curve, quality, asserts, and the folder."""
    plan = record.plan
    console.print()
    console.print(Text(printable(str(folder)), style="bold"))
    change = plan.after.params / plan.before.params - 1
    became = f"-> {count_text(plan.after.params)} ({100 * change:+.1f} %)" if change else "as before"
    console.print(f"  parameters  {count_text(plan.before.params)} {became}")
    if record.heal is None:
        console.print(f"  healed      no{' (--no-heal)' if record.no_heal else ''}")
    for stage in healing_stages(record.heal) if record.heal is not None else ():
        name = f", {stage['stage']}" if "stages" in (record.heal or {}) else ""
        console.print(f"  healed      {stage['tokens']} tokens seen of {stage['data']} in {stage['seconds']:.0f} s{name}")
        console.print(f"  loss        {_sparkline([loss for _, loss in stage['curve']], console)}")
        if stage.get("validation"):
            shown = _sparkline([loss for _, loss in stage["validation"]], console)
            kept = f"those after {stage['kept']} tokens" if stage.get("kept") else "those before healing"
            console.print(f"  other text  {shown}, kept are the weights that were best on it: {kept}")
    for weights in packed_weights(record):
        console.print(f"  stored      {weights}")
    if record.heal is not None and record.heal.get("needless"):
        console.print("  before healing every assert held already")
    for caution in cautions_of(record):
        console.print(f"  caution     {printable(caution)}", soft_wrap=True)
    if record.evaluation is not None:
        render_quality(record.evaluation, record.asserts, console)
    else:
        _render_asserts(record.asserts, console)
    for benched in (record.bench or {}).values():
        render_bench(benched, console)
    if record.status == "accepted":
        load = f"AutoModelForCausalLM.from_pretrained({as_string(folder)}, trust_remote_code=True)"
        console.print(f"Load it:  {load}", soft_wrap=True)
    else:
        rest = f": a quality gate failed. The result is kept in {printable(str(folder))}, not under the name you asked for."
        console.print(Text.assemble(("Rejected", "bold red"), rest))


def render_quality(quality: dict[str, Any], asserts: Iterable[AssertResult], console: Console) -> None:
    """Print the perplexity of both models and every metric of the finished one on each text, with standard errors; for a
    healed model also the values before healing."""
    sources = quality.get("sources", [quality])
    for source in sources:
        (_, *titles), *rows = quality_rows(source)
        several = f" in {source['sequences']} sequences" if "sequences" in source else ""
        table = headed_table(printable(f"on {source['data']}, {source['tokens']} tokens{several}"), titles)
        for title, *values in rows:
            table.add_row(printable(title), *values)
        console.print(table)
    for task in quality.get("tasks", ()):
        console.print(_task_table(task, shares_of(task)))
    _render_asserts(asserts, console)


def _task_table(task: dict[str, Any], shown: Mapping[str, str]) -> Table:
    """Right answers of both models; of a needle by kind and depth, too, as a heat map: the more is found, the greener."""
    table = headed_table(printable(task["name"]), shown)
    table.add_row(f"{task['metric']}, {task['questions']} questions", *shown.values())
    for name, part in parts_of(task).items():
        shares = [part[model] for model in ("base", "artifact") if model in part]
        table.add_row(printable(name), *(Text(part_text(share), style=_heat(share)) for share in shares))
    missed = task.get("missed", {})
    if any(missed.values()):
        table.add_row("lines that are missed", *(", ".join(map(str, lines)) or "none" for lines in missed.values()))
    return table


def _heat(share: float | None) -> str:
    if share is None:
        return "bold red"
    return "green" if share >= 0.9 else "yellow" if share >= 0.5 else "red"


def _render_asserts(asserts: Iterable[AssertResult], console: Console) -> None:
    for line in result_lines(tuple(asserts), console.width, ascii_only(console)):
        write_line(console, line)


def _sparkline(losses: Sequence[float], console: Console) -> str:
    """`1.93 ▇▅▃▂▁ 0.31`: a sparkline between the first and the last loss."""
    if not losses:
        return "not logged"
    marks = ASCII_BARS if ascii_only(console) else LEVELS
    top = max(0.0, *losses) or 1.0
    shown = [losses[place * len(losses) // SPARKLINE] for place in range(SPARKLINE)] if len(losses) > SPARKLINE else losses
    line = "".join(marks[min(len(marks) - 1, int(max(0.0, loss / top) * (len(marks) - 1) + 0.5))] for loss in shown)
    return f"{losses[0]:.3f} {line} {losses[-1]:.3f}"
