"""Layers chosen by `nll(drop)` against every layer alike, on SmolLM2: equal cache bytes at 8Ki tokens, equal healing.

Needs `make model`. Healed on 200k tokens of pydoc and other documentation in sequences of 4Ki, judged on 20Ki tokens in
sequences of 4Ki, and WikiText in sequences of 8Ki as well (that part of pydoc has no four of them). `kv` is the cache at
8Ki as a share of the base's.
`drops`: 8 attentions dropped, 16 windowed at 256, 6 full; `windows`: 24 windowed at 256, 6 full; `uniform-as-...`:
every layer windowed, by as much as the cache of that plan allows; `uniform-256`: every layer windowed at 256. Healed
are the pairs of equal cache.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, made
from benchmarks.table import Row, Table
from benchmarks.tables.healing import LORA64

DROPS = "layers 4-7, 17, 25, 26, 29"
WINDOWS = "layers 1-3, 8-16, 18-21"
LAYERS, CONTEXT = 30, 8192


def full_and_windowed(full: int, windowed: int) -> int:
    """The window of every layer by which the cache at CONTEXT is that of so many full layers and windows of 256."""
    return (full * CONTEXT + windowed * 256) // LAYERS


PLANS = {
    "drops": f"{DROPS} drop\n{WINDOWS} swa(window=256{{sinks}})",
    "uniform-as-drops": f"layers all swa(window={full_and_windowed(6, 16)}{{sinks}})",
    "windows": f"{DROPS}, {WINDOWS.removeprefix('layers ')} swa(window=256{{sinks}})",
    "uniform-as-windows": f"layers all swa(window={full_and_windowed(6, 24)}{{sinks}})",
    "uniform-256": "layers all swa(window=256{sinks})",
}
SINKS = {"none": "", "learned": ", sinks=learned"}
HEALING = {
    "unhealed": "",
    "healed": f'heal {{ data = mix("builtin:pydoc", "builtin:docs"); tokens = 200k; seq = 4Ki; {LORA64} }}',
}


def row(plan: str, sinks: str, healing: str) -> Row:
    key = f"{plan}-{sinks}-{healing}"

    def run(work: Path) -> dict[str, float]:
        rules = PLANS[plan].format(sinks=SINKS[sinks])
        # The whole plan is measured on sequences of twice the widest window, of which pydoc has no four.
        recipe = f'measure {{ data = "builtin:docs" }}\n{rules}\n{HEALING[healing]}'
        found = increases(evaluated(work, key, recipe, seq=4096, tokens=5 * 4096))
        long = evaluated(work, f"{key}-8Ki", recipe, seq=CONTEXT, tokens=5 * CONTEXT, texts=("wikitext",), artifact=key)
        found |= {name.replace("wikitext", "at 8Ki"): value for name, value in increases(long).items()}
        costs = json.loads((made(work, key, recipe) / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
        kept, whole = (costs[when]["kv_bytes"][str(CONTEXT)] for when in ("after", "before"))
        return found | {"kv": kept / whole}

    return Row(key, run)


TABLE = Table(
    title="layers by their scores against every layer alike, equal cache at 8Ki tokens",
    columns={"kv": ".1%"} | FORMATS | {"at 8Ki": "+.1%", "at 8Ki error": ".1%"},
    rows=[
        *(row(plan, sinks, "unhealed") for sinks in SINKS for plan in PLANS),
        *(row(plan, "learned", "healed") for plan in ("windows", "uniform-as-windows")),
        *(row(plan, "none", "healed") for plan in ("drops", "uniform-as-drops")),
    ],
)
