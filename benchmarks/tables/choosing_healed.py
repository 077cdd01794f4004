"""Plans of SmolLM2 for 40 % of its cache, by the ways of `benchmarks/tables/choosing.py`, healed on 100k tokens each.

Needs `make model` and the rows `WAY-40` of `choosing`, in whose folder the plans and their scores are. `before` is the KL
of the plan on both texts, before healing; the rises of perplexity are those after it. Ways that chose the same plan, to the
last digit of its KL, share the healed model.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, made
from benchmarks.table import CHOOSING, HEALING, Row, Table, uses
from benchmarks.tables.choosing import WAYS, choose
from benchmarks.tables.healing import BEST, BY, Healing

BUDGET = 40


def healed(way: str, work: Path) -> dict[str, float]:
    plans = work.parent / "choosing"
    found = {each: json.loads(uses(plans / f"{each}-{BUDGET}.sums").read_text(encoding="utf-8")) for each in WAYS}
    uses(plans / f"{way}-{BUDGET}.json")
    losses, tokens = zip(*(pair for text in found[way].values() for pair in text), strict=True)
    way = next(each for each in WAYS if found[each] == found[way])
    recipe = f"{choose(BUDGET, WAYS[way])}\n{Healing(BEST, 'distill', BY, 100).recipe('', work.parent / 'healing')}"
    made(work, way, recipe, "--cache-dir", str(plans / f"{way}-{BUDGET}.cache"))
    return {"before": sum(losses) / sum(tokens), **increases(evaluated(work, way, recipe))}


TABLE = Table(
    title=f"SmolLM2 within {BUDGET} % of its cache: rises of perplexity after healing",
    columns={"before": ".4f"} | FORMATS,
    rows=[Row(way, partial(healed, way)) for way in WAYS],
    measures=(*HEALING, *CHOOSING),
)
