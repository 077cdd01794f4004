"""A plan of SmolLM2 that `choose` finds under four budgets at once, beside rules that a person would write for them.

Needs `make model`, and vLLM in an environment of its own, which is made (`--install`) and calibrated as for
`benchmarks/tables/predictions.py`, in whose folder the profile is. All plans store 8-bit weights, are healed on the same
text, pass the same gate, and are exported and run in unmodified vLLM. `by-hand-N`: windows with learned sinks in N layers,
by rank, as in recipes/quickstart.lbr and recipes/serve-anywhere.lbr; whether they keep the budgets is seen. `chosen` has
twice the calibration text, for it also chooses. `kl`: joint, before healing, on calibration text that neither scored nor
chose. `predicted` and `over base`: output tokens a second over whole runs, over those of the base. `remembers-N` minimizes
`kl + 0.2 * recall` for a throughput of N %, and heals on 200k tokens, `builtin:recall` among them, without a gate; `1Ki` is
what it finds there of what the base finds.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, judge, made
from benchmarks.table import CHOOSING, HEALING, SERVING, Row, Table
from benchmarks.tables.healing import BEST, BY, METHODS, Healing
from benchmarks.tables.judged import MODEL, lbdsl
from benchmarks.tables.needle import figures as needle
from benchmarks.tables.predictions import calibrated

BUDGETS = 'kv(8Ki) <= 40%, weights <= 65%, serves("vllm"), throughput(1Ki, 256, 50) >= {}%'
WINDOW = "swa(window=256, sinks=learned)"
ALTERNATIVES = "keep", WINDOW, "swa(window=128, sinks=learned)", "kv_heads(1)", "drop"
CHOOSE = f"choose for layers all among {', '.join(ALTERNATIVES)} minimizing {{}} subject to {BUDGETS}"
REMEMBERING = "remembers-150", "remembers-135"
PLANS = {
    "chosen": CHOOSE.format("kl", 150),
    **{plan: CHOOSE.format("kl + 0.2 * recall", plan.removeprefix("remembers-")) for plan in REMEMBERING},
    "by-hand-20": f"layers first 2, last 1 keep(attention)\nlowest 20 of rest by sensitivity {WINDOW}",
    "by-hand-24": f"lowest 24 by kl({WINDOW}) {WINDOW}",
}
SCREENED = "tokens = 8Ki; strategy = screen"
MEASURED = {
    "chosen": SCREENED,
    **dict.fromkeys(REMEMBERING, f'data = "builtin:pydoc"; {SCREENED}; recall_questions = 40'),
}
REMEMBERED = 'mix("builtin:pydoc", "builtin:docs", "builtin:recall", weights=[3, 3, 2])'
GATE = 'assert ppl_increase("builtin:wikitext") < 10%'
TIMES = dict.fromkeys(("predicted", "over base", "low", "high"), ".2f")
"""The formats of `timed`."""
FOUND = {f"1Ki{what}": ".0%" for what in ("", " error", " worst")} | {"8Ki": "+.1%", "8Ki error": ".1%"}
"""The formats of what is found, and of the rise of perplexity on WikiText in sequences of 8Ki."""


def timed(folder: Path, cache: tuple[str, str]) -> dict[str, float]:
    """An artifact in vLLM: the predicted and the measured throughput over the base's, and its range over the pairs."""
    asked = ("--engine", "vllm", "--install", "--lengths", "1024/256", "--concurrency", "50", "--json", *cache)
    (cell,) = json.loads(lbdsl("bench", str(folder), "--against", MODEL, *asked).stdout)["cells"]
    return {name: cell[key] for name, key in zip(TIMES, ("predicted", "ratio", "low", "high"), strict=True)}


def figures(plan: str, work: Path) -> dict[str, float]:
    cache = calibrated("vllm", work.parent / "predictions")
    if plan in REMEMBERING:
        heal = f"heal {{ data = {REMEMBERED}; tokens = 200k; {METHODS[BY]} }}"
    else:
        heal = Healing(BEST, "distill", BY, 100).recipe("", work.parent / "healing") + f"\n{GATE}"
    rules = f"layers all quantize(bits=8, activations=8)\n{PLANS[plan]}\nelse keep\n{heal}"
    recipe = f"measure {{ {MEASURED.get(plan, 'tokens = 4Ki')}; seq = 1Ki; tries = 60 }}\n{rules}"
    folder, judged = made(work, plan, recipe, *cache), evaluated(work, plan, recipe)
    found = {}
    if plan in REMEMBERING:
        asked = judge(folder, "wikitext", "--needle", "1Ki", seq=8192, tokens=32768)
        found = {f"1Ki{what}": value for what, value in needle(asked["tasks"][0]).items()} | increases({"8Ki": asked})
    record = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
    after, before = record["after"], record["before"]
    return {
        "kl": record["loss"]["scores"]["kl"]["value"],
        "kl error": record["loss"]["scores"]["kl"]["stderr"],
        "kv": after["kv_bytes"]["8192"] / before["kv_bytes"]["8192"],
        "weights": after["weights"] / before["weights"],
        **timed(folder, cache),
        **increases(judged),
        **found,
    }


TABLE = Table(
    title="SmolLM2 under four budgets: a chosen plan and rules by hand",
    columns={"kl": ".4f", "kl error": ".4f", "kv": ".1%", "weights": ".1%"} | TIMES | FORMATS | FOUND,
    rows=[Row(plan, partial(figures, plan)) for plan in PLANS],
    measures=(*HEALING, *CHOOSING, *SERVING, "lbdsl/packing"),
)
