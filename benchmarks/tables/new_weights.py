"""Quality of SmolLM2 with drops, windows, fewer KV heads and narrower MLPs, alone and combined, before and after healing.

Needs `make model`. Each row plans, applies, heals and evaluates on both built-in texts, with 1Ki tokens per sequence.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.table import ROOT, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

TOGETHER = ROOT / "tests" / "recipes" / "together.lbr"
SETTINGS, RULES = TOGETHER.read_text(encoding="utf-8").split("\n\n")
KEEP, DROP, SWA, KV_HEADS, WIDTH, ELSE = RULES.splitlines(keepends=True)
ALONE = {"drop": KEEP + DROP, "swa": KEEP + SWA, "kv_heads": KV_HEADS, "width": WIDTH}


def row(name: str, rules: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        recipe = work / f"{name}.lbr"
        recipe.write_text(f"{SETTINGS}\n\n{rules}", encoding="utf-8")

        def make(folder: Path) -> None:
            lbdsl("apply", str(recipe), MODEL, "-o", str(folder), "--yes", "--resume")

        record = json.loads((once(work / name, make) / "lbdsl.json").read_text(encoding="utf-8"))
        plan = record["plan"]
        found = {
            "weights": plan["after"]["weights"] / plan["before"]["weights"],
            "kv": plan["after"]["kv_bytes"]["8192"] / plan["before"]["kv_bytes"]["8192"],
            "rise": plan["loss"]["scores"]["nll"]["value"],
        }
        for source in record["evaluation"]["sources"]:
            text = source["data"].removeprefix("builtin:")
            found[f"{text} before"] = source["before_healing"]["ppl_increase"]
            found[f"{text} after"] = source["ppl_increase"]
        return found

    return Row(name, run)


TABLE = Table(
    title="perplexity of SmolLM2 under actions on the parts of a layer, healed on 50k tokens of pydoc",
    columns={
        "weights": ".1%",
        "kv": ".1%",
        "rise": "+.3f",
        "wikitext before": "+.1%",
        "wikitext after": "+.1%",
        "pydoc before": "+.1%",
        "pydoc after": "+.1%",
    },
    rows=[row("together", RULES), *(row(name, rules + ELSE) for name, rules in ALONE.items())],
)
