"""Some layers windowed, chosen by what is lost, against every layer alike, on SmolLM2: equal cache at 8Ki tokens, equal
healing.

Needs `make model`. `chosen-22` and `chosen-16` have windows of 256 tokens with four sink tokens in the layers that `choose
minimizing kl + 0.2 * recall` leaves for 22 and 16 % of the cache (`choose-sum` of the table `choosing_recall`), the others
full; `uniform-22` and `uniform-16` have one window in all layers, by as much as that cache allows. Healed on 200k tokens in
sequences of 4Ki, a quarter of them `builtin:recall`; judged in sequences of 8Ki of WikiText, and by `needle`.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evaluated import increases, judge, made
from benchmarks.table import CHOOSING, HEALING, Row, Table, once
from benchmarks.tables.choosing_recall import LAYERS, POSITIONS, SINKS, WINDOWED, made_plan
from benchmarks.tables.heads import HEAL
from benchmarks.tables.needle import figures

WINDOW, CACHES = 256, (22, 16)
CONTEXTS = ("1Ki", "2Ki", "4Ki")
HEALED = HEAL.replace("tokens = 100k; seq = 2Ki", "tokens = 200k; seq = 4Ki")


def rules(plan: str, cache: int, work: Path) -> str:
    windowed = WINDOWED[WINDOW][cache]
    if plan == "uniform":
        held = (windowed * (WINDOW + SINKS) + (LAYERS - windowed) * POSITIONS) // LAYERS
        return f"layers all swa({held - SINKS}, {SINKS})"
    _, chosen = made_plan(work.parent / "choosing_recall", "choose-sum", cache, WINDOW, "")
    layers = [str(each["index"]) for each in chosen["layers"] if each["after"]["mixer"]["window"] is not None]
    return f"layers {', '.join(layers)} swa({WINDOW}, {SINKS})\nelse keep"


def row(plan: str, cache: int, healing: str) -> Row:
    key = f"{plan}-{cache}-{healing}"

    def run(work: Path) -> dict[str, float]:
        # The whole plan is measured on sequences of twice the widest window, of which pydoc has no four.
        recipe = f'measure {{ data = "builtin:docs"; recall_questions = 40 }}\n{rules(plan, cache, work)}\n'
        return remembered(work, key, recipe + (HEALED if healing == "healed" else ""))

    return Row(key, run)


def remembered(work: Path, key: str, recipe: str) -> dict[str, float]:
    """The cache at 8Ki tokens, what is found and what text costs there, of what a recipe makes of SmolLM2."""
    folder = made(work, key, recipe)

    def make(path: Path) -> None:
        asked = [word for context in CONTEXTS for word in ("--needle", context)]
        words = (*asked, "-o", str(work / f"{key}.png"))
        path.write_text(json.dumps(judge(folder, "wikitext", *words, seq=POSITIONS, tokens=4 * POSITIONS)))

    found = json.loads(once(work / f"{key}.judged.json", make).read_text())
    costs = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
    kept, whole = (costs[when]["kv_bytes"][str(POSITIONS)] for when in ("after", "before"))
    done = {"kv": kept / whole}
    for context, task in zip(CONTEXTS, found["tasks"], strict=True):
        done |= {f"{context}{what}": value for what, value in figures(task).items()}
    return done | increases({"wikitext": found})


REMEMBERED = (
    {"kv": ".1%"}
    | {f"{context}{of}": ".0%" for context in CONTEXTS for of in ("", " error", " worst")}
    | {"wikitext": "+.1%", "wikitext error": ".1%"}
)
"""The formats of `remembered`."""
TABLE = Table(
    title="layers chosen by what is lost against every layer alike, equal cache at 8Ki tokens",
    columns=REMEMBERED,
    rows=[
        row(plan, cache, healing)
        for healing in ("unhealed", "healed")
        for cache in CACHES
        for plan in ("chosen", "uniform")
    ],
    measures=(*HEALING, *CHOOSING),
)
