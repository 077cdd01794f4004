"""LB5xx, exports and engines."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES: tuple[Code, ...] = (
    Code("LB500", "the format cannot express this model",
         "An engine that loads a model and computes another one is worse than one that refuses it.",
         example="lbdsl export ARTIFACT --to gguf", exit_code=6),
)
