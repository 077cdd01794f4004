"""Convert errors that transformers raises while loading, and check that it loaded the model that was inspected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def loading(code: str, what: str, help: str | tuple[str, ...] = ()) -> Iterator[None]:
    """Context that turns any exception of transformers into an LbdslError with `code`: `what`, and its first line.

    The exceptions have no common base class: configurations raise errors of dataclasses, IndexError or ZeroDivisionError,
    and tokenizers a bare Exception.
    """
    try:
        yield
    except LbdslError:
        raise
    except Exception as problem:
        raise fail(code, f"{what}: {first_line(problem)}", help=help) from problem


def check_loaded(model: PreTrainedModel, report: dict[str, Any], facts: ModelFacts, source: ModelSource) -> None:
    """Raise LB417 if a weight was not read from the checkpoint, or the model differs from the inspected `facts`."""
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        names = [str(name) for name in report.get(key) or () if "rotary_emb.inv_freq" not in str(name)]
        if names:
            raise fail(
                "LB417",
                f"{source.text} does not load completely: {len(names)} {key.replace('_', ' ')}, e.g. {sorted(names)[0]}",
            )
    count = sum(parameter.numel() for parameter in model.parameters())
    if type(model).__name__ != facts.architecture or count != facts.params:
        raise fail(
            "LB417",
            f"{source.text} loads as {type(model).__name__} with {count} parameters; its headers "
            f"promise {facts.architecture} with {facts.params}",
        )


def first_line(problem: BaseException) -> str:
    """The first line of an exception's message, shortened; if it ends with a colon, the second line is added."""
    lines = [line.strip() for line in str(problem).strip().splitlines()]
    text = lines[0] if lines else type(problem).__name__
    return (f"{text} {lines[1]}" if text.endswith(":") and len(lines) > 1 else text)[:200]
