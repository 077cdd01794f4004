"""How layer numbers, costs, scores and times are said in messages, plans and reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lbdsl.core.units import Unit, bytes_text, count_text
from lbdsl.metrics import title_of

if TYPE_CHECKING:
    from lbdsl.plan.schema import AssertResult, ScoreValue

PREFILL = "windows make it no faster in transformers, often slower: it masks a dense attention"
"""What a plan and a model card say of reading a prompt, where layers have windows."""

AS_SAVED = "as saved"
"""Among the formats of an engine: the artifact itself, without an export."""


def ranges_text(layers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> `0-2, 5`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def ordinal(n: int) -> str:
    """1 -> `1st`, 12 -> `12th`."""
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def score_text(value: float) -> str:
    """A score with its sign, to three significant digits: `+0.016`."""
    return f"{value:+.3g}"


def plural(count: int, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def duration_text(seconds: float) -> str:
    """40 -> `40 s`, 400 -> `7 min`, 8000 -> `2.2 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def amount_text(value: float, unit: Unit | None) -> str:
    """A value in words of its unit: `6.6 MiB`, `128.3 M`, `12.3 %`."""
    match unit:
        case Unit.BYTES:
            return bytes_text(value)
        case Unit.PARAMS:
            return count_text(value)
        case Unit.FLOPS:
            return f"{count_text(value)}FLOPs"
        case Unit.RATIO:
            return f"{100 * value:.1f} %"
        case _:
            return f"{value:.4g}"


def value_text(item: AssertResult) -> str:
    """The value that decides an assert, in words of its unit."""
    if item.value is None:
        return ""
    if item.unit is Unit.RATIO:
        return f"{100 * item.value:.4g} %"
    return count_text(item.value) if item.unit is Unit.FLOPS else amount_text(item.value, item.unit)


def joint_text(name: str, score: ScoreValue) -> str:
    """A value of the whole changed model, named: `KL 0.53 nats/token`, `flips 3.2 %`."""
    factor, words = _words_of(score.unit)
    return f"{title_of(name)} {factor * score.value:.3g}{words}"


def row_title(name: str, unit: str) -> str:
    """The head of a metric's row in a table: `KL to the base, nats/token`. A share has its sign in the cells."""
    return title_of(name) + (f", {unit}" if unit == Unit.NATS else "")


def cell_text(value: float | None, stderr: float | None, unit: str) -> str:
    """A metric's cell in a table: `0.1234 ±0.0021`, `3.21 ±0.40 %`; None stands for what is no number."""
    if value is None:
        return "not a number"
    factor, words = _words_of(unit)
    digits = 4 if factor == 1 else 2
    error = "" if stderr is None else f" ±{factor * stderr:.{digits}f}"
    return f"{factor * value:.{digits}f}{error}{words if factor != 1 else ''}"


def _words_of(unit: str) -> tuple[int, str]:
    """What a value is multiplied by to be said, and the words after it."""
    return (100, " %") if unit == Unit.RATIO else (1, " nats/token" if unit == Unit.NATS else "")
