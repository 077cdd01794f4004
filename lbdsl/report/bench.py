"""The cells of `bench` as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lbdsl.artifact.benched import COLUMNS, LESS_IS_BETTER, label_of, measured_by, noise_of, row_of
from lbdsl.core.pictures import Target, picture
from lbdsl.core.printed import printable
from lbdsl.core.units import bytes_text
from lbdsl.report.console import USUAL


def render_bench(benched: Mapping[str, Any], console: Console) -> None:
    """Print what an engine gave, one row a cell: both models, their ratio with its interval, the base over itself, and what
    was predicted."""
    console.print(f"{measured_by(benched)}:")
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in COLUMNS:
        # On a narrow screen intervals, and how it was predicted, go to a line of their own.
        wraps = title in ("ratio", "predicted") or console.width < USUAL
        table.add_column(title, justify="right" if title else "left", no_wrap=not wraps, overflow="fold")
    for cell in benched["cells"]:
        table.add_row(*row_of(cell))
    console.print(table)
    if noise := noise_of(benched):
        console.print(noise)


def render_calibration(found: Mapping[str, Any], console: Console) -> None:
    """Print each measured cell beside what the profile says of it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("variant", "", "measured", "profile", "error"):
        justify: Literal["left", "right"] = "left" if title in ("variant", "") else "right"
        table.add_column(title, justify=justify, no_wrap=console.width >= USUAL, overflow="fold")
    for cell in found["cells"]:
        measured, fitted = cell["measured"], cell["fitted"]
        in_bytes = cell["what"].startswith("memory")
        shown = (bytes_text(round(value)) if in_bytes else f"{1e3 * value:.1f} ms" for value in (measured, fitted))
        table.add_row(cell["variant"], cell["what"], *shown, f"{fitted / measured - 1:+.1%}")
    console.print(table)
    errors = ", ".join(f"{name} {error:.1%}" for name, error in found["errors"].items())
    console.print(f"largest errors: {errors}")
    console.print(f"kept in {found['profile']}", soft_wrap=True)


def draw_bench(benched: Mapping[str, Any], to: Target) -> None:
    """Draw the ratios, one bar a cell, with their intervals, beside 1; those where less is better in another colour."""
    cells = benched["cells"]
    names = [printable(f"{cell['metric']} {label_of(cell)}") for cell in cells]
    with picture(to, figsize=(7, 0.8 + 0.32 * len(cells))) as (_, axes):
        for label, colour, less in (("more is better", "#1f5fa8", False), ("less is better", "#7a9a4b", True)):
            places = [place for place, cell in enumerate(cells) if (cell["unit"] in LESS_IS_BETTER) is less]
            if shown := [cells[place] for place in places]:
                ratios = [cell["ratio"] for cell in shown]
                spread = [[cell["ratio"] - cell["low"] for cell in shown], [cell["high"] - cell["ratio"] for cell in shown]]
                axes.barh(places, ratios, xerr=spread, color=colour, ecolor="#444444", capsize=2, label=label)
        predicted = [(place, cell["predicted"]) for place, cell in enumerate(cells) if cell["predicted"] is not None]
        if predicted:
            at, values = zip(*predicted, strict=True)
            axes.plot(values, at, "|", color="#d95f02", markersize=14, markeredgewidth=2.5, label="predicted")
        axes.legend(fontsize="small")
        axes.set_title(printable(measured_by(benched)).replace("`", ""), fontsize="small")
        axes.axvline(1, color="#444444", linewidth=1)
        axes.set_yticks(range(len(cells)), names)
        axes.invert_yaxis()
        axes.set_xlabel("artifact / base")
