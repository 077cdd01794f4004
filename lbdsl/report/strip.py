"""The strip: one character per layer, under a ruler, in groups of eight; score rows have a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from lbdsl.parts import Mark
from lbdsl.plan.schema import Plan

GROUP = 8
LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = ".:+*#@"
STYLES = {"same": "green", "change": "yellow", "drop": "red"}
"""Colours of the layers' marks."""


@dataclass(frozen=True)
class Scale:
    """A logarithmic scale from the lowest positive score to the highest; scores <= 0 take the lowest mark."""

    low: float
    high: float
    marks: str

    @classmethod
    def of(cls, values: Sequence[float], marks: str) -> Scale | None:
        positive = [value for value in values if value > 0]
        return cls(min(positive), max(positive), marks) if positive else None

    def fraction(self, value: float) -> float:
        """The position of a value between low (0) and high (1)."""
        if value <= self.low or self.high <= self.low:
            return 0.0 if self.high > self.low or value < self.low else 1.0
        return min(1.0, math.log(value / self.low) / math.log(self.high / self.low))

    def mark(self, value: float) -> str:
        return self.marks[min(len(self.marks) - 1, int(self.fraction(value) * len(self.marks)))]


@dataclass(frozen=True)
class Row:
    """A labelled row of the strip: one character and one style per layer."""

    label: str
    marks: Sequence[str]
    styles: Sequence[str]


def mark_rows(plans: Mapping[str, Plan]) -> Iterator[tuple[Row, list[Mark]]]:
    """The marks of what some layer of some plan changes, one row for each plan (by label, which may be empty); one row of
    all layers as they are, if nothing changes."""
    changed = False
    for name in dict.fromkeys(name for plan in plans.values() for layer in plan.layers for name in layer.marks):
        rows = {label: [layer.marks.get(name) for layer in plan.layers] for label, plan in plans.items()}
        if all(mark is None or mark.style == "same" for marks in rows.values() for mark in marks):
            continue
        changed = True
        for label, marks in rows.items():
            signs = [" " if mark is None else mark.sign for mark in marks]
            styles = ["" if mark is None else STYLES[mark.style] for mark in marks]
            yield Row(f"{label} {name}".lstrip(), signs, styles), [mark for mark in marks if mark is not None]
    if not changed:
        count = len(next(iter(plans.values())).layers)
        yield Row("layers", ["="] * count, [STYLES["same"]] * count), [Mark("layers", "=", "same")]


def strip_lines(rows: Sequence[Row], width: int) -> list[Text]:
    """The rows under a ruler, wrapped between groups so that no line is longer than `width`."""
    layers = len(rows[0].marks)
    margin = max(len("layer"), *(len(row.label) for row in rows)) + 3
    groups = math.ceil(layers / GROUP)
    fit = max(1, (width - margin + 1) // (GROUP + 1))
    per_line = math.ceil(groups / math.ceil(groups / fit))
    lines: list[Text] = []
    for start in range(0, layers, per_line * GROUP):
        stop = min(layers, start + per_line * GROUP)
        if start:
            lines.append(Text())
        lines.append(Text(f" {'layer':<{margin - 1}}{_ruler(start, stop)}", style="dim"))
        for row in rows:
            line = Text(f" {row.label:<{margin - 1}}")
            for layer in range(start, stop):
                if layer > start and layer % GROUP == 0:
                    line.append(" ")
                line.append(row.marks[layer], style=row.styles[layer])
            line.rstrip()
            lines.append(line)
    return lines


def _ruler(start: int, stop: int) -> str:
    """Layer numbers above the first layer of each group and, if there is room, above the last layer."""
    ruler = ""
    for layer in range(start, stop, GROUP):
        ruler = f"{ruler:<{_column(layer, start)}}{layer}"
    last = str(stop - 1)
    column = _column(stop - 1, start) - len(last) + 1
    return f"{ruler:<{column}}{last}" if column > len(ruler) else ruler


def _column(layer: int, start: int) -> int:
    return layer - start + (layer - start) // GROUP
