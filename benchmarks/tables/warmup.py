"""quickstart on SmolLM2, healed with three seeds before and after healing's warm-up was corrected.

Needs `make model`. Rows `before-SEED` were made at the commit that wrote this table, where the first step of a stage had a
learning rate of 0; rows `after-SEED` at a later one, where it has `lr / (warm-up steps + 1)`. `increase` is the rise of
perplexity on `builtin:wikitext`, `1Ki` is `recovery(needle(1Ki))`; errors are of one run's text and questions.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.table import MINUTES, ROOT, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

SEEDS = range(3)


def row(when: str, seed: int) -> Row:
    def run(work: Path) -> dict[str, float]:
        recipe = work / f"quickstart-{seed}.lbr"
        work.mkdir(parents=True, exist_ok=True)
        text = Path(ROOT, "recipes/quickstart.lbr").read_text(encoding="utf-8")
        recipe.write_text(text.replace("heal {", f"heal {{\n    seed = {seed}"), encoding="utf-8")

        def make(folder: Path) -> None:
            words = ("apply", str(recipe), MODEL, "-o", str(folder), "--yes", "--resume")
            if lbdsl(*words, codes=(0, 4)).returncode == 4:
                folder.with_name(f"{folder.name}.rejected").rename(folder)

        record = json.loads((once(work / f"{when}-{seed}", make) / "lbdsl.json").read_text(encoding="utf-8"))
        evaluation = record["evaluation"]
        wikitext = next(text for text in evaluation["sources"] if text["data"] == "builtin:wikitext")
        needle = next(task for task in evaluation["tasks"] if task["name"] == "needle(1Ki)")
        return {
            "unhealed": wikitext["before_healing"]["ppl_increase"],
            "increase": wikitext["ppl_increase"],
            "error": wikitext["stderr"]["ppl_increase"],
            "1Ki": needle["recovery"],
            "1Ki error": needle["stderr"]["recovery"],
        }

    return Row(f"{when}-{seed}", run)


TABLE = Table(
    title="quickstart before and after the first step of healing learned",
    columns={"unhealed": "+.1%", "increase": "+.2%", "error": ".1%", "1Ki": ".0%", "1Ki error": ".0%", MINUTES: ".0f"},
    rows=[row(when, seed) for when in ("before", "after") for seed in SEEDS],
    measures=(),
)
