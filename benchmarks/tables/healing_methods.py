"""Methods of healing on 50k tokens: SmolLM2 with 8 attentions dropped and 16 windowed at 256 tokens, without sinks.

Needs `make model`. All rows heal on the same mixture of documentation texts and text that the model writes itself.
`minutes` are those of healing on this machine.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, made
from benchmarks.table import Row, Table
from benchmarks.tables.healing import PLAN

TOKENS = "tokens = 50k"
STAGES = "stage match { tokens = 12k }; stage distill { tokens = 38k }"
LORA64 = "method = lora(rank=64, alpha=128); lr = 2e-3; batch = 1"
METHODS = {
    "lora16-1e-3": f"method = lora(rank=16); lr = 1e-3; {TOKENS}",
    "lora16-2e-3": f"method = lora(rank=16); lr = 2e-3; {TOKENS}",
    "lora16-4e-3": f"method = lora(rank=16); lr = 4e-3; {TOKENS}",
    "lora64-1e-3": f"method = lora(rank=64, alpha=128); lr = 1e-3; {TOKENS}",
    "lora64-2e-3": f"method = lora(rank=64, alpha=128); lr = 2e-3; {TOKENS}",
    "full-1e-4": f"method = full; lr = 1e-4; {TOKENS}",
    "full-3e-4": f"method = full; lr = 3e-4; {TOKENS}",
    "lora64-2e-3-batch1": f"{LORA64}; {TOKENS}",
    "full-3e-4-batch1": f"method = full; lr = 3e-4; batch = 1; {TOKENS}",
    "full-1e-3-batch1": f"method = full; lr = 1e-3; batch = 1; {TOKENS}",
    "lora64-2e-3-batch1-match": f"{LORA64}; {STAGES}",
    "lora64-2e-3-batch1-hidden": f"{LORA64}; loss = kl + 1 * hidden; {TOKENS}",
}


def row(name: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        recipe = f'{PLAN}\nheal {{ data = mix("builtin:docs", self); seq = 1Ki; {METHODS[name]} }}'
        heal = json.loads((made(work, name, recipe) / "lbdsl.json").read_text(encoding="utf-8"))["heal"]
        return increases(evaluated(work, name, recipe)) | {"minutes": heal["seconds"] / 60}

    return Row(name, run)


TABLE = Table(
    title="methods of healing on 50k tokens",
    columns=FORMATS | {"minutes": ".1f"},
    rows=[row(name) for name in METHODS],
)
