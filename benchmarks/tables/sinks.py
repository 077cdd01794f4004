"""Windows without sinks, with learned sinks and with four sink tokens, on SmolLM2, unhealed and healed.

Needs `make model`. `way` is the share of the way from sink tokens (0) to none (1) in loss, both with the same healing; for
sinks trained alone, both unhealed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evaluated import FORMATS, TEXTS, evaluated, increases
from benchmarks.table import Row, Table

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


def judged(work: Path, plan: str, sinks: str, healing: str) -> Mapping[str, dict[str, Any]]:
    measure = 'measure { data = "builtin:pydoc"; tokens = 8Ki; seq = 1Ki }'
    rules = WINDOWS[plan].format(sinks=SINKS[sinks])
    return evaluated(work, f"{plan}-{sinks}-{healing}", f"{measure}\n{rules}\n{HEALING[healing]}")


def nll(judged: dict[str, Any]) -> float:
    return math.log(judged["perplexity"]["artifact"])


def row(plan: str, sinks: str, healing: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        own = judged(work, plan, sinks, healing)
        found = increases(own)
        for text in TEXTS:
            if sinks == "learned":
                others = healing if healing != "sinks-16k" else "unhealed"
                none, tokens = (nll(judged(work, plan, name, others)[text]) for name in ("none", "tokens"))
                found[f"{text} way"] = (nll(own[text]) - tokens) / (none - tokens)
        return found

    return Row(f"{plan}-{healing}-{sinks}", run)


TABLE = Table(
    title="windows of 256 tokens in SmolLM2: no sinks, learned sinks, four sink tokens",
    columns=FORMATS | {f"{text} way": ".0%" for text in TEXTS},
    rows=[
        row(plan, sinks, healing)
        for healing in HEALING
        for plan in WINDOWS
        for sinks in SINKS
        if healing != "sinks-16k" or sinks == "learned"
    ],
)
