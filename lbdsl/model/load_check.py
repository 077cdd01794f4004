"""What can go wrong while transformers loads, and the proof that it loaded what was promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lbdsl.core.diagnostic import fail
from lbdsl.core.facts import ModelFacts
from lbdsl.model.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError)
"""What transformers raises for checkpoints it cannot load: there is no common base class."""


def check_loaded(model: PreTrainedModel, report: dict[str, Any], facts: ModelFacts, source: ModelSource) -> None:
    """Raise LB417 when a weight was not read from the checkpoint, or the model is not the one inspected."""
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        names = [str(name) for name in report.get(key) or () if "rotary_emb.inv_freq" not in str(name)]
        if names:
            raise fail("LB417", f"{source.text} does not load whole: {len(names)} {key.replace('_', ' ')}, "
                                f"e.g. {sorted(names)[0]}")
    count = sum(parameter.numel() for parameter in model.parameters())
    if type(model).__name__ != facts.architecture or count != facts.params:
        raise fail("LB417", f"{source.text} loads as {type(model).__name__} with {count} parameters; its headers "
                            f"promise {facts.architecture} with {facts.params}")


def first_line(problem: BaseException) -> str:
    """A stranger's message, cut to what fits in one line."""
    lines = str(problem).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__)[:200]
