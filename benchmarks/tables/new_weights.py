"""What drops, windows, fewer KV heads and narrower MLPs do to SmolLM2, alone and together, before and after healing.

Needs `make model`. Each row plans, applies, heals and judges on both built-in texts, at 1Ki tokens a sequence.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.table import Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

SETTINGS = """lbr 1
measure { data = "builtin:pydoc"; tokens = 4Ki; seq = 512 }
heal { data = "builtin:pydoc"; tokens = 50k; seq = 1Ki; lr = 1e-3 }
eval { data = ["builtin:wikitext", "builtin:pydoc"]; tokens = 8Ki; seq = 1Ki }
"""
RULES = {
    "drop": ("layers 0-1 keep(attention)", "lowest 4 of rest by sensitivity drop"),
    "swa": ("layers 0-1 keep(attention)", "lowest 12 of rest by kl(swa(window=256)) swa(window=256)"),
    "kv_heads": ("lowest 8 by kl(kv_heads(1)) kv_heads(1)",),
    "width": ("layers 4-27 width(87.5%)",),
}
TOGETHER = tuple(dict.fromkeys(rule for rules in RULES.values() for rule in rules))


def row(name: str, rules: tuple[str, ...]) -> Row:
    def run(work: Path) -> dict[str, float]:
        recipe = work / f"{name}.lbr"
        recipe.write_text(SETTINGS + "\n".join((*rules, "else keep\n")), encoding="utf-8")

        def make(folder: Path) -> None:
            lbdsl("apply", str(recipe), MODEL, "-o", str(folder), "--yes", "--resume")

        record = json.loads((once(work / name, make) / "lbdsl.json").read_text(encoding="utf-8"))
        plan = record["plan"]
        found = {
            "weights": plan["after"]["weights"] / plan["before"]["weights"],
            "kv": plan["after"]["kv_bytes"]["8192"] / plan["before"]["kv_bytes"]["8192"],
            "rise": plan["loss"]["scores"]["nll"]["value"],
            "seconds": record["heal"]["seconds"],
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
        "seconds": ".0f",
    },
    rows=[row("together", TOGETHER), *(row(name, rules) for name, rules in RULES.items())],
)
