"""What SmolLM2 finds in long texts, 16 of 30 layers windowed at 256 tokens: without and with sinks, unhealed and healed.

Needs `make model`. Shares of the facts that are found, in 8 texts of each length, with the standard error; `wikitext` is
the rise of perplexity on 4Ki tokens of `builtin:wikitext` in sequences of 1Ki.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.evaluated import increases, made
from benchmarks.table import Row, Table, once
from benchmarks.tables.healing import LORA64
from benchmarks.tables.judged import lbdsl

PLAN = "layers 1-3, 8-16, 18-21 swa(window=256, sinks={sinks})"
SINKS = {"none": "0", "learned": "learned", "tokens": "4"}
HEALING = {
    "unhealed": "",
    "healed-50k": f'heal {{ data = mix("builtin:pydoc", "builtin:docs"); tokens = 50k; seq = 1Ki; {LORA64} }}',
}
CONTEXTS = ("512", "1Ki", "2Ki", "4Ki")


def answers(work: Path, sinks: str, healing: str) -> dict[str, Any]:
    """What `lbdsl eval --json` says of one artifact and of its base, asked once."""
    name = f"{sinks}-{healing}"

    def make(path: Path) -> None:
        folder = made(work, name, f"{PLAN.format(sinks=SINKS[sinks])}\n{HEALING[healing]}")
        asked = [word for context in CONTEXTS for word in ("--needle", context)]
        picture = work / f"{name}.png"
        text = ("--data", "builtin:wikitext", "--tokens", "4Ki", "--seq", "1Ki")
        path.write_text(lbdsl("eval", str(folder), *text, *asked, "--json", "-o", str(picture)).stdout)

    return dict(json.loads(once(work / f"{name}.json", make).read_text()))


def row(sinks: str, healing: str, model: str = "artifact") -> Row:
    def run(work: Path) -> dict[str, float]:
        found = answers(work, sinks, healing)
        shares = {
            key: value
            for context, task in zip(CONTEXTS, found["tasks"], strict=True)
            for key, value in ((context, task[model]), (f"{context} error", task["stderr"][model]))
        }
        return shares if model == "base" else shares | increases({"wikitext": found})

    return Row("base" if model == "base" else f"{sinks}-{healing}", run)


TABLE = Table(
    title="facts that SmolLM2 finds in texts of 512 to 4Ki tokens, 16 of 30 layers windowed at 256",
    columns={f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error")}
    | {"wikitext": "+.1%", "wikitext error": ".1%"},
    rows=[row("none", "unhealed", "base"), *(row(sinks, healing) for healing in HEALING for sinks in SINKS)],
)
