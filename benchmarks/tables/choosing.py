"""Plans of SmolLM2 for budgets of its cache: joint KL on text that neither scored nor chose, before healing.

Needs `make model`. One list of alternatives for all. `until`: a ranking of windows, as few as reach the budget. `scores`:
the integer program over scores of single layers; `greedy`: one change after the other, measured beside those before it;
`screen`: the program over estimated scores and pair terms. `search`: the best plans of a program measured jointly, and
improved. `plans` are those measured as a whole, `minutes` those of `lbdsl plan` on this machine; scores are measured once,
before the first row.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

from benchmarks.table import Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

BUDGETS = (60, 50, 40, 30, 25)
ALTERNATIVES = ("swa(window=256, sinks=4)", "kv_heads(1)", "swa(window=256, sinks=4) + kv_heads(1)", "drop")
WAYS = {
    "scores": "tries = 0",
    "greedy": "strategy = greedy; tries = 200",
    "screen": "strategy = screen; tries = 0",
    "search": "tries = 100",
    "screen-search": "strategy = screen; tries = 100",
}
MEASURE = "measure {{ tokens = 8Ki; seq = 1Ki; {way} }}"


def choose(budget: int, way: str) -> str:
    among = ", ".join(("keep", *ALTERNATIVES))
    lines = f"choose for layers all among {among} minimizing kl subject to kv(8Ki) <= {budget}%\nelse keep"
    return f"{MEASURE.format(way=way)}\n{lines}"


def until(budget: int) -> str:
    action = ALTERNATIVES[0]
    return f"{MEASURE.format(way='tries = 0')}\nlowest by kl({action}) until kv(8Ki) <= {budget}% {action}\nelse keep"


def planned(name: str, recipe: str, work: Path) -> dict[str, float]:
    work.mkdir(parents=True, exist_ok=True)
    path, cache = work / f"{name}.lbr", ("--cache-dir", str(work / "cache"))
    path.write_text(f"lbr 1\n{recipe}\n", encoding="utf-8")
    # All scores, so that minutes are those of choosing.
    scored = work / "scored.lbr"
    scored.write_text(f"lbr 1\n{choose(50, WAYS['scores'])}\n", encoding="utf-8")
    once(work / "scores.json", lambda out: out.write_text(lbdsl("measure", str(scored), MODEL, "--json", *cache).stdout))
    start = time.perf_counter()
    plan = json.loads(lbdsl("plan", str(path), MODEL, "--json", *cache).stdout)
    kl = plan["loss"]["scores"]["kl"]
    kept, whole = (plan[when]["kv_bytes"]["8192"] for when in ("after", "before"))
    return {
        "kl": kl["value"],
        "error": kl["stderr"],
        "kv": kept / whole,
        "plans": (plan["choice"] or {}).get("spent", 0),
        "minutes": (time.perf_counter() - start) / 60,
    }


def rows() -> list[Row]:
    found = []
    for budget in BUDGETS:
        recipes = {"until": until(budget), **{name: choose(budget, way) for name, way in WAYS.items()}}
        for name, recipe in recipes.items():
            key = f"{name}-{budget}"
            found.append(Row(key, partial(planned, key, recipe)))
    return found


TABLE = Table(
    title="SmolLM2 within a budget of its cache at 8Ki tokens: joint KL on other text, nats/token",
    columns={"kl": ".3f", "error": ".3f", "kv": ".1%", "plans": ".0f", "minutes": ".1f"},
    rows=rows(),
)
