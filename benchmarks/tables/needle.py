"""What SmolLM2 finds in long texts, 16 of 30 layers windowed at 256 tokens: without and with sinks, unhealed and healed.

Needs `make model`. Shares of the facts that are found, in 8 texts of each length, with the standard error.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evaluated import made
from benchmarks.table import ROOT, Row, Table
from benchmarks.tables.healing import METHODS
from benchmarks.tables.judged import lbdsl

PLAN = "layers 1-3, 8-16, 18-21 swa(window=256, sinks={sinks})"
SINKS = {"none": "0", "learned": "learned", "tokens": "4"}
HEALING = {
    "unhealed": "",
    "healed-50k": f'heal {{ data = mix("builtin:pydoc", "builtin:docs"); tokens = 50k; seq = 1Ki; {METHODS["lora64"]} }}',
}
CONTEXTS = ("512", "1Ki", "2Ki", "4Ki")


def row(sinks: str, healing: str, model: str = "artifact") -> Row:
    def run(work: Path) -> dict[str, float]:
        folder = made(work, f"{sinks}-{healing}", f"{PLAN.format(sinks=SINKS[sinks])}\n{HEALING[healing]}")
        asked = [word for context in CONTEXTS for word in ("--needle", context)]
        picture = ROOT / "benchmarks" / "results" / "needle" / f"{sinks}-{healing}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        text = ("--data", "builtin:wikitext", "--tokens", "4Ki", "--seq", "1Ki")
        found = json.loads(lbdsl("eval", str(folder), *text, *asked, "--json", "-o", str(picture)).stdout)
        return {
            f"{context}{what}": task[model] if not what else task["stderr"][model]
            for context, task in zip(CONTEXTS, found["tasks"], strict=True)
            for what in ("", " error")
        }

    return Row("base" if model == "base" else f"{sinks}-{healing}", run)


TABLE = Table(
    title="facts that SmolLM2 finds in texts of 512 to 4Ki tokens, 16 of 30 layers windowed at 256",
    columns={f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error")},
    rows=[row("none", "unhealed", "base"), *(row(sinks, healing) for healing in HEALING for sinks in SINKS)],
)
