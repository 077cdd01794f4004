"""Does `recall` of a whole plan, which chooses, order plans as `needle` does, which judges? 20 plans of SmolLM2, unhealed.

Needs `make model`. Plans of windows of 256 tokens with four sink tokens, in 4 to 28 layers drawn by chance. `recall` is
the rise of the loss on 80 questions in nats a token of an answer, `needle` the share of 72 facts that is found in texts of
1Ki tokens, and of each kind. `spearman`: the rank correlation of the plans' shares with their `recall`, turned round.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

from benchmarks.evaluated import made
from benchmarks.table import CHANGING, CHOOSING, JUDGING, Row, Table
from benchmarks.tables.tasks import spearman

PLANS, LAYERS = 20, 30
KINDS = ("numbers", "words", "changed")


def windowed(number: int) -> list[int]:
    chance = random.Random(number)
    return sorted(chance.sample(range(LAYERS), 4 + 24 * number // (PLANS - 1)))


def figures(work: Path, number: int) -> dict[str, float]:
    layers = ", ".join(map(str, windowed(number)))
    rules = f"layers {layers} swa(window=256, sinks=4)\nelse keep\neval {{ tokens = 4Ki; seq = 1Ki; needle = [1Ki] }}"
    folder = made(work, f"plan-{number}", f'measure {{ data = "builtin:pydoc"; tokens = 4Ki }}\n{rules}')
    record = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))
    task = next(task for task in record["evaluation"]["tasks"] if task["name"] == "needle(1Ki)")
    recall = record["plan"]["recall"]
    return {
        "layers": len(windowed(number)),
        "recall": recall["value"],
        "error": recall["stderr"],
        "needle": task["artifact"],
        **{kind: task["kinds"][kind]["artifact"] for kind in KINDS},
    }


def correlations(work: Path) -> dict[str, float]:
    found = [figures(work, number) for number in range(PLANS)]
    lost = [-one["recall"] for one in found]
    return {name: spearman(lost, [one[name] for one in found]) for name in ("needle", *KINDS)}


TABLE = Table(
    title="recall of 20 plans of SmolLM2 beside the facts that they find",
    columns={"layers": ".0f", "recall": "+.3f", "error": ".3f"} | dict.fromkeys(("needle", *KINDS), ".2f"),
    rows=[
        *(Row(f"plan-{number}", partial(figures, number=number)) for number in range(PLANS)),
        Row("spearman", correlations),
    ],
    measures=(*CHANGING, *JUDGING, *CHOOSING),
)
