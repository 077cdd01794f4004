"""Windows without sinks, with learned sinks and with four sink tokens, on SmolLM2, unhealed and healed.

Needs `make model`. `way` is the share of the way from sink tokens (0) to none (1) in loss, both with the same healing; for
sinks trained alone, both unhealed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.table import Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

WINDOWS = {
    "8+16": "layers 4-7, 17, 25, 26, 29 drop\nlayers 1-3, 8-16, 18-21 swa(window=256, sinks={sinks})",
    "30": "layers all swa(window=256, sinks={sinks})",
}
"""The least sensitive 8 attentions dropped and the next 16 windowed; and all windowed."""

SINKS = {"none": "0", "learned": "learned", "tokens": "4"}
HEALING = {
    "unhealed": "",
    "sinks-16k": 'heal { data = "builtin:pydoc"; method = sinks; tokens = 16Ki; seq = 1Ki; batch = 1 }',
    "healed-100k": 'heal { data = "builtin:pydoc"; tokens = 100k; seq = 1Ki }',
}
TEXTS = ("wikitext", "pydoc")


def judged(work: Path, plan: str, sinks: str, healing: str) -> dict[str, dict[str, Any]]:
    """What `lbdsl eval --json` says of the model on each text; the model is made once."""

    def make(path: Path) -> None:
        recipe = path.with_name(f"{name}.lbr")
        measure = 'measure { data = "builtin:pydoc"; tokens = 8Ki; seq = 1Ki }'
        rules = WINDOWS[plan].format(sinks=SINKS[sinks])
        recipe.write_text(f"lbr 1\n{measure}\n{rules}\n{HEALING[healing]}\n")
        folder = once(work / name, lambda out: lbdsl("apply", str(recipe), MODEL, "-o", str(out), "--yes", "--resume"))
        found = {}
        for text in TEXTS:
            words = ("eval", str(folder), "--data", f"builtin:{text}", "--seq", "1024", "--tokens", "8192", "--json")
            found[text] = json.loads(lbdsl(*words).stdout)
        path.write_text(json.dumps(found))

    name = f"{plan}-{sinks}-{healing}"
    return json.loads(once(work / f"{name}.json", make).read_text())


def nll(judged: dict[str, Any]) -> float:
    return math.log(judged["perplexity"]["artifact"])


def row(plan: str, sinks: str, healing: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        own = judged(work, plan, sinks, healing)
        found: dict[str, float] = {}
        for text in TEXTS:
            found[f"{text}"] = own[text]["ppl_increase"]
            found[f"{text} error"] = own[text]["stderr"]["ppl_increase"]
            if sinks == "learned":
                others = healing if healing != "sinks-16k" else "unhealed"
                none, tokens = (nll(judged(work, plan, name, others)[text]) for name in ("none", "tokens"))
                found[f"{text} way"] = (nll(own[text]) - tokens) / (none - tokens)
        return found

    return Row(f"{plan}-{healing}-{sinks}", run)


TABLE = Table(
    title="windows of 256 tokens in SmolLM2: no sinks, learned sinks, four sink tokens",
    columns={
        f"{text}{what}": form for text in TEXTS for what, form in {"": "+.1%", " error": ".1%", " way": ".0%"}.items()
    },
    rows=[
        row(plan, sinks, healing)
        for healing in HEALING
        for plan in WINDOWS
        for sinks in SINKS
        if healing != "sinks-16k" or sinks == "learned"
    ],
)
