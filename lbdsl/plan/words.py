"""The text of assert and metric values in messages, plans and reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lbdsl.core.units import Unit, amount_text, count_text, plural
from lbdsl.metrics import title_of

if TYPE_CHECKING:
    from lbdsl.plan.schema import AssertResult, ScoreValue

PREFILL = (
    "windows make long prompts faster in transformers on a CPU, and on a GPU with lbdsl and Triton; without them, and with "
    "padding, it masks a dense attention"
)
"""The note on prefill speed in plans and model cards, if layers have windows."""

AS_SAVED = "as saved"
"""One of the formats of an engine: the artifact itself, without an export."""


def value_text(item: AssertResult, pm: str = "±") -> str:
    """The value that decides an assert, as text with its unit; with its standard error, or of a predicted one with what it
    may be."""
    if item.value is None:
        return ""
    if item.error is not None:
        factor, words = _words_of(item.unit or Unit.NONE)
        return f"{factor * item.value:.4g} {pm}{factor * item.error:.2g}{words}"
    said, *ends = (_amount(value, item.unit) for value in (item.value, *(item.between or ())))
    return f"{said} ({ends[0]} to {ends[1]})" if ends else said


def undecided_text(asserts: Sequence[AssertResult]) -> str:
    """How many asserts another sample could decide otherwise; empty if there are none."""
    count = sum(item.undecided for item in asserts)
    return f"{count} of {plural(len(asserts), 'assert')} undecided: another sample may say otherwise" if count else ""


def _amount(value: float, unit: Unit | None) -> str:
    if unit is Unit.RATIO:
        return f"{100 * value:.4g} %"
    return count_text(value) if unit is Unit.FLOPS else amount_text(value, unit)


def joint_text(name: str, score: ScoreValue, pm: str = "±") -> str:
    """A value of the whole changed model, with its name and error: `KL 0.53 ±0.02 nats/token`, `flips 3.2 ±0.4 %`."""
    factor, words = _words_of(score.unit)
    error = f" {pm}{factor * score.stderr:.2g}" if score.stderr is not None else ""
    return f"{title_of(name)} {factor * score.value:.3g}{error}{words}"


def signed_text(score: ScoreValue | None, pm: str) -> str:
    """A change of the whole model: `+0.0183 ±0.003`; empty if it was not measured."""
    if score is None:
        return ""
    return f"{score.value:+.3g}" + (f" {pm}{score.stderr:.2g}" if score.stderr is not None else "")


def judged_texts(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """What an artifact was judged as, on each text: `builtin:wikitext: perplexity increase 7.58 ±0.51 %, ...`."""
    for source in evaluation.get("sources", [evaluation]):
        scores = (f"{title_of(name)} {cell_text(**score)}" for name, score in source["scores"].items())
        yield f"{source['data']}: {', '.join(scores)}"


def row_title(name: str, unit: str) -> str:
    """The heading of a metric's row in a table: `KL to the base, nats/token`. A ratio has its `%` in the cells."""
    return title_of(name) + (f", {unit}" if unit == Unit.NATS else "")


def cell_text(value: float | None, stderr: float | None, unit: str) -> str:
    """A metric's cell in a table: `0.1234 ±0.0021`, `3.21 ±0.40 %`; None is a value that is not a number."""
    if value is None:
        return "not a number"
    factor, words = _words_of(unit)
    digits = 4 if factor == 1 else 2
    error = "" if stderr is None else f" ±{factor * stderr:.{digits}f}"
    return f"{factor * value:.{digits}f}{error}{words if factor != 1 else ''}"


def quality_rows(source: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table of one text on which both models were judged, its head first; with the model before healing, if that was
    judged, too; or that of a base alone."""
    before = source.get("before_healing")
    models = [before, source] if before else [source]
    if "artifact" not in source["perplexity"]:
        yield "", "base"
        yield "perplexity", _perplexity(source, "base")
        return
    yield "", "base", *(("before healing", "healed") if before else ("artifact",))
    yield "perplexity", _perplexity(source, "base"), *(_perplexity(model, "artifact") for model in models)
    rises = (cell_text(model["loss_rise"], model["stderr"]["loss_rise"], Unit.NATS) for model in models)
    yield "loss rise, nats/token", "", *rises
    for name, score in source["scores"].items():
        cells = (cell_text(**model["scores"][name]) if name in model["scores"] else "" for model in models)
        yield row_title(name, score["unit"]), "", *cells
    if any(model.get("state_shares") for model in models):
        yield "attention from a state", "", *(_state_text(model.get("state_shares", {})) for model in models)


def _state_text(shares: Mapping[str, float]) -> str:
    """The share of outputs that comes from a state, the mean over layers and its range."""
    if not shares:
        return ""
    low, high = min(shares.values()), max(shares.values())
    return f"{100 * sum(shares.values()) / len(shares):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _perplexity(source: Mapping[str, Any], model: str) -> str:
    value, error = source["perplexity"][model], source["stderr"][f"perplexity_{model}"]
    if value is None:
        return cell_text(None, None, Unit.NONE)
    return f"{value:.2f}" + ("" if error is None else f" ±{error:.2f}")


def shares_of(task: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a task's right answers: the base's, the artifact's, and how much is left of them; or its own."""
    shown = {name: cell_text(task[name], error, Unit.RATIO) for name, error in task["stderr"].items()}
    return {**shown, "recovery": "the base has none"} if task.get("artifact") is not None and not task["base"] else shown


def parts_of(task: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """The shares of the kinds of a task's facts and of its parts, by their names; a needle's parts are depths."""
    deep = task["name"].startswith("needle(")
    depths = {f"{name} into the text" if deep else name: part for name, part in task["parts"].items()}
    return {**task.get("kinds", {}), **depths}


def part_text(share: float | None) -> str:
    """The share of a part of a task, such as a depth; None is one that is not a number."""
    return "not a number" if share is None else f"{share:.0%}"


def _words_of(unit: str) -> tuple[int, str]:
    """The factor of a value for display, and the text after it."""
    return (100, " %") if unit == Unit.RATIO else (1, " nats/token" if unit == Unit.NATS else "")
