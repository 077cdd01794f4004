"""How values of asserts and metrics are said in messages, plans and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.core.units import Unit, amount_text, count_text
from lbdsl.metrics import title_of

if TYPE_CHECKING:
    from lbdsl.plan.schema import AssertResult, ScoreValue

PREFILL = "windows make it no faster in transformers, often slower: it masks a dense attention"
"""What a plan and a model card say of reading a prompt, where layers have windows."""

AS_SAVED = "as saved"
"""Among the formats of an engine: the artifact itself, without an export."""


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
