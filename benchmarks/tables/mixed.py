"""A plan of SmolLM2 that `choose` finds under four budgets at once, beside rules that a person would write for them.

Needs `make model`, and vLLM in an environment of its own, which is made (`--install`) and calibrated as for
`benchmarks/tables/predictions.py`, in whose folder the profile is. All plans store 8-bit weights, are healed on the same
text, pass the same gate, and are exported and run in unmodified vLLM. `by-hand-N`: windows with learned sinks in N layers,
by rank, as in recipes/quickstart.lbr and recipes/serve-anywhere.lbr; whether they keep the budgets is seen. `chosen` has
twice the calibration text, for it also chooses. `kl`: joint, before healing, on calibration text that neither scored nor
chose. `predicted` and `over base`: output tokens a second over whole runs, over those of the base.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, made
from benchmarks.table import CHOOSING, HEALING, SERVING, Row, Table
from benchmarks.tables.healing import BEST, BY, Healing
from benchmarks.tables.judged import MODEL, lbdsl
from benchmarks.tables.predictions import calibrated

THROUGHPUT = "throughput(1Ki, 256, 50)"
BUDGETS = "kv(8Ki) <= 40%", "weights <= 65%", f"{THROUGHPUT} >= 150%", 'serves("vllm")'
WINDOW = "swa(window=256, sinks=learned)"
ALTERNATIVES = "keep", WINDOW, "swa(window=128, sinks=learned)", "kv_heads(1)", "drop"
PLANS = {
    "chosen": f"choose for layers all among {', '.join(ALTERNATIVES)} minimizing kl subject to {', '.join(BUDGETS)}",
    "by-hand-20": f"layers first 2, last 1 keep(attention)\nlowest 20 of rest by sensitivity {WINDOW}",
    "by-hand-24": f"lowest 24 by kl({WINDOW}) {WINDOW}",
}
TOKENS = {plan: "8Ki; strategy = screen" if plan == "chosen" else "4Ki" for plan in PLANS}
GATE = 'assert ppl_increase("builtin:wikitext") < 10%'
TIMES = dict.fromkeys(("predicted", "over base", "low", "high"), ".2f")
"""The formats of `timed`."""


def timed(folder: Path, cache: tuple[str, str]) -> dict[str, float]:
    """An artifact in vLLM: the predicted and the measured throughput over the base's, and its range over the pairs."""
    asked = ("--engine", "vllm", "--install", "--lengths", "1024/256", "--concurrency", "50", "--json", *cache)
    (cell,) = json.loads(lbdsl("bench", str(folder), "--against", MODEL, *asked).stdout)["cells"]
    return {name: cell[key] for name, key in zip(TIMES, ("predicted", "ratio", "low", "high"), strict=True)}


def figures(plan: str, work: Path) -> dict[str, float]:
    cache = calibrated("vllm", work.parent / "predictions")
    heal = Healing(BEST, "distill", BY, 100).recipe("", work.parent / "healing")
    rules = f"layers all quantize(bits=8, activations=8)\n{PLANS[plan]}\nelse keep\n{heal}\n{GATE}"
    recipe = f"measure {{ tokens = {TOKENS[plan]}; seq = 1Ki; tries = 60 }}\n{rules}"
    folder, judged = made(work, plan, recipe, *cache), evaluated(work, plan, recipe)
    record = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
    after, before = record["after"], record["before"]
    return {
        "kl": record["loss"]["scores"]["kl"]["value"],
        "kl error": record["loss"]["scores"]["kl"]["stderr"],
        "kv": after["kv_bytes"]["8192"] / before["kv_bytes"]["8192"],
        "weights": after["weights"] / before["weights"],
        **timed(folder, cache),
        **increases(judged),
    }


TABLE = Table(
    title="SmolLM2 under four budgets: a chosen plan and rules by hand",
    columns={"kl": ".4f", "kl error": ".4f", "kv": ".1%", "weights": ".1%"} | TIMES | FORMATS,
    rows=[Row(plan, partial(figures, plan)) for plan in PLANS],
    measures=(*HEALING, *CHOOSING, *SERVING, "lbdsl/packing"),
)
