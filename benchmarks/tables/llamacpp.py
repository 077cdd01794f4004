"""Prefill and decoding of SmolLM2 in llama.cpp, by `lbdsl bench --engine llamacpp`, for plans that are not healed.

Needs `make model`, and llama.cpp in an environment of its own, which the first row makes (`--install`). llama.cpp has
windows, with learned sinks or none, or layers without attention, not both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.table import SERVING, Row, Table
from benchmarks.tables.speed import BATCHES, benched, unhealed

PLANS = {
    "drop8": "layers 4-7, 17, 25, 26, 29 drop\n",
    "window30": "layers all swa(window=256)\n",
    "window30-sinks": "layers all swa(window=256, sinks=learned)\n",
    "window30-sinks-w8": "layers all swa(window=256, sinks=learned)\nlayers all quantize(bits=8)\n",
}
CONTEXTS = (1024, 4096)


def figures(plan: str, context: int, work: Path) -> dict[str, float]:
    found = benched(unhealed(plan, PLANS[plan], work), context, work, "--engine", "llamacpp", "--install")
    return {
        "prefill": found["prefill"]["ratio"],
        "again": found["prefill"]["again"],
        **{f"decode {batch}": found[f"decode {batch}"]["ratio"] for batch in BATCHES[context]},
        **{f"again {batch}": found[f"decode {batch}"]["again"] for batch in BATCHES[context]},
    }


TABLE = Table(
    title="SmolLM2 in llama.cpp: artifact over base",
    columns={
        name: ".2f"
        for name in ("prefill", "again", *(f"{what} {batch}" for batch in (1, 8) for what in ("decode", "again")))
    },
    rows=[Row(f"{plan}-{context}", partial(figures, plan, context)) for plan in PLANS for context in CONTEXTS],
    measures=SERVING,
)
