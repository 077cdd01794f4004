"""Where the prediction of `benchmarks/tables/mixed.py` errs: windows alone, 8-bit weights alone, and both, in vLLM.

Needs what `mixed` needs, and uses the same profile, which was timed on windows and on 8-bit weights apart. 19 windows, as
many as the plan that was chosen there. Not healed: that changes no speed. `predicted` and `over base`: output tokens a
second over whole runs, over those of the base; `low` and `high`: of the pairs; `error`: of the prediction.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.table import SERVING, Row, Table
from benchmarks.tables.mixed import TIMES, WINDOW, timed
from benchmarks.tables.predictions import calibrated
from benchmarks.tables.speed import unhealed

WINDOWS = f"layers 0-18 {WINDOW}\n"
WEIGHTS = "layers all quantize(bits=8, activations=8)\n"
PLANS = {"windows": WINDOWS, "weights": WEIGHTS, "both": WEIGHTS + WINDOWS}


def figures(plan: str, work: Path) -> dict[str, float]:
    found = timed(unhealed(plan, PLANS[plan], work), calibrated("vllm", work.parent / "predictions"))
    return {**found, "error": found["predicted"] / found["over base"] - 1}


TABLE = Table(
    title="predicted throughput of windows and 8-bit weights, alone and together",
    columns={**TIMES, "error": "+.1%"},
    rows=[Row(plan, partial(figures, plan)) for plan in PLANS],
    measures=(*SERVING, "lbdsl/packing"),
)
