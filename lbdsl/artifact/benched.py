"""What `bench` measured of an artifact, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbdsl.core.units import bytes_text, plural, tokens_text

COLUMNS = ("", "context", "base", "artifact", "ratio", "again", "predicted")
NOISE = 0.05
"""Differences of a model from itself (`again`) above which a reader is warned."""
_UNITS = {"tokens/s": ", tok/s", "seconds": ", s", "bytes": ""}
LESS_IS_BETTER = ("seconds", "bytes")


@dataclass(frozen=True)
class Cell:
    """One metric at `context` tokens and `batch` sequences, each of which writes `output` tokens. `base` and `artifact` are
    medians, in `unit`; `ratio` is the median of artifact / base over `pairs` of neighbouring runs, between `low` and `high`
    (a bootstrap interval); `again` is that of a model over itself, from neighbouring runs, too. `predicted` is the ratio by
    a profile, which may lie `between` two others; if `bound`, by bytes and FLOPs alone."""

    context: int
    batch: int
    metric: str
    unit: str
    base: float
    artifact: float
    ratio: float
    low: float
    high: float
    again: float | None = None
    output: int | None = None
    predicted: float | None = None
    bound: bool = False
    pairs: int | None = None
    between: tuple[float, float] | None = None


def measured_by(benched: Mapping[str, Any]) -> str:
    """Which engine, on which machine."""
    machine = benched["machine"]
    engine = f"{benched['engine']} {benched['engine_version']}" + (", served" if benched.get("served") else "")
    served = f" (export {benched['export']})" if benched["export"] else ""
    threads = [plural(machine["threads"], "thread")] if machine["threads"] else []
    return (
        f"`lbdsl bench` in {engine}{served} on {', '.join([machine['name'], *threads, *filter(None, [machine['dtype']])])}"
    )


def label_of(cell: Mapping[str, Any]) -> str:
    """`4Ki`; `8 x 4Ki` for a batch of 8 sequences; `50 x 1Ki/256` for 50 requests that write 256 tokens each."""
    written = f"/{tokens_text(cell['output'])}" if cell.get("output") else ""
    return (f"{cell['batch']} x " if cell["batch"] > 1 else "") + tokens_text(cell["context"]) + written


def row_of(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """The cell in COLUMNS. Counts have no interval; `again` is the ratio of a model to itself."""
    timed = cell.get("again") is not None
    between = cell.get("between")
    how = " (formula)" if cell.get("bound") else f" ({between[0]:.2f}-{between[1]:.2f})" if between else ""
    return (
        cell["metric"] + _UNITS[cell["unit"]],
        label_of(cell),
        _value(cell["base"], cell["unit"]),
        _value(cell["artifact"], cell["unit"]),
        f"x{cell['ratio']:.2f}" + (f" ({cell['low']:.2f}-{cell['high']:.2f})" if timed else ""),
        f"x{cell['again']:.2f}" if timed else "",
        "" if cell.get("predicted") is None else f"x{cell['predicted']:.2f}{how}",
    )


def noise_of(benched: Mapping[str, Any]) -> str | None:
    """What a model over itself says of the machine, if it differs by more than NOISE; else None."""
    ratios = [cell["again"] for cell in benched["cells"] if cell.get("again") is not None]
    most = max((abs(ratio - 1) for ratio in ratios), default=0.0)
    if most <= NOISE:
        return None
    return f"A model over itself differs by up to {most:.0%}: the machine was busy. Measure again when it is not."


def _value(value: float, unit: str) -> str:
    if unit == "bytes":
        return bytes_text(round(value))
    if unit == "seconds" and value < 100:
        return f"{value:#.3g}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
