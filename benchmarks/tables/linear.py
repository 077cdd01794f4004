"""Linear attention before a window against windows alone, on SmolLM2: equal bytes of cache, equal tokens of healing.

Needs `make model`. In `linear` and `windows` the 24 layers whose windows of 512 tokens cost the least recall are changed:
to `linear(window=64, sinks=learned)`, or to windows of 194 tokens with learned sinks, which hold as many bytes; `no-sinks`
has `linear(window=64)`. `drops` has no attention in the 23 layers where that costs the least recall: 7 full layers are as
many bytes as 6 and 24 states. `uniform` and `uniform-windows` change all 30 layers. A row is WAY-TOKENS-SEED. Healed in
sequences of 2Ki, a quarter of them `builtin:recall`; where there are feature maps, a quarter of the tokens goes to a stage
`match` that trains them alone, but for `no-match`. `from state` is the share of the changed layers' attention that comes
from before the window, mean, before and after healing; prefill and decoding in transformers at 4Ki tokens over the base's,
of the first seed of `windows` and `linear`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.evaluated import increases, judge, made
from benchmarks.table import CHOOSING, HEALING, SERVING, Row, Table, once
from benchmarks.tables.heads import CONTEXTS, POSITIONS
from benchmarks.tables.needle import figures
from benchmarks.tables.speed import benched

MEASURE = 'measure { data = "builtin:pydoc"; tokens = 8Ki; recall_questions = 40 }'
LEAST = "lowest 24 by recall(swa(window=512, sinks=4))"
LINEAR, WINDOW = "linear(window=64, sinks=learned)", "swa(window=194, sinks=learned)"
WAYS = {
    "windows": f"{LEAST} {WINDOW}",
    "linear": f"{LEAST} {LINEAR}",
    "no-match": f"{LEAST} {LINEAR}",
    "no-sinks": f"{LEAST} linear(window=64)",
    "drops": "lowest 23 by recall(drop) drop",
    "uniform": f"layers all {LINEAR}",
    "uniform-windows": f"layers all {WINDOW}",
}
MATCHED = "linear", "no-sinks", "uniform"
DATA = 'data = mix("builtin:pydoc", "builtin:docs", "builtin:recall", weights=[3, 3, 2]); seq = 2Ki; batch = 1; lr = 1e-3'
LORA = "method = lora(rank=64, alpha=128)"
SPEED = 4096
TIMED = ("windows", 200, 0), ("linear", 200, 0)
JUDGED = {
    "wikitext 1Ki": (1024, 8192),
    "wikitext 8Ki": (8192, 32768),
    "pydoc 1Ki": (1024, 8192),
    "pydoc 5Ki": (5120, 20480),
}
"""The length of a sequence and how many tokens in all; `builtin:pydoc` has no four sequences of 8Ki to judge by."""


def recipe(way: str, thousands: int, seed: int) -> str:
    match = thousands // 4 if way in MATCHED else 0
    stages = f"stage match {{ tokens = {match}k; method = sinks }};" if match else ""
    heal = f"heal {{ {DATA}; {LORA}; seed = {seed}; {stages} stage distill {{ tokens = {thousands - match}k }} }}"
    return f'{MEASURE}\n{WAYS[way]}\nelse keep\n{heal}\neval {{ data = "builtin:wikitext"; seq = 8Ki }}'


def judged(folder: Path, path: Path) -> None:
    """What `lbdsl eval --json` says by text and length, and of the needles beside the longest."""
    found = {}
    for name, (seq, tokens) in JUDGED.items():
        needles = [word for context in CONTEXTS for word in ("--needle", context)] if seq == POSITIONS else []
        words = (*needles, "-o", str(path.with_suffix(".png"))) if needles else ()
        found[name] = judge(folder, name.split()[0], *words, seq=seq, tokens=tokens)
    path.write_text(json.dumps(found))


def from_state(evaluation: Mapping[str, Any]) -> dict[str, float]:
    (source,) = evaluation["sources"]
    both = {"from state, unhealed": source["before_healing"], "from state": source}
    shares = {name: list(each.get("state_shares", {}).values()) for name, each in both.items()}
    return {name: statistics.mean(each) for name, each in shares.items() if each}


def row(way: str, thousands: int, seed: int) -> Row:
    key = f"{way}-{thousands}k-{seed}"

    def run(work: Path) -> dict[str, float]:
        folder = made(work, key, recipe(way, thousands, seed))
        found = json.loads(once(work / f"{key}.judged.json", partial(judged, folder)).read_text())
        record = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))
        kept, whole = (record["plan"][when]["kv_bytes"][str(POSITIONS)] for when in ("after", "before"))
        done = {"kv": kept / whole, "minutes": record["heal"]["seconds"] / 60} | from_state(record["evaluation"])
        for context, task in zip(CONTEXTS, found["wikitext 8Ki"]["tasks"], strict=True):
            done |= {f"{context}{what}": value for what, value in figures(task).items()}
        if (way, thousands, seed) in TIMED:
            cells = benched(folder, SPEED, work)
            done |= {"prefill": cells["prefill"]["ratio"], "decode": cells["decode 1"]["ratio"]}
        return done | increases(found)

    return Row(key, run)


TABLE = Table(
    title="linear attention before a window against windows alone, equal bytes and equal healing",
    columns={"kv": ".1%"}
    | {f"{text}{what}": form for text in JUDGED for what, form in {"": "+.1%", " error": ".1%"}.items()}
    | {f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error")}
    | {"from state, unhealed": ".1%", "from state": ".1%", "prefill": ".2f", "decode": ".2f", "minutes": ".0f"},
    rows=[
        *(row(way, 200, seed) for way in ("windows", "linear") for seed in range(3)),
        *(row(way, 200, 0) for way in WAYS if way not in ("windows", "linear")),
        *(row(way, 1000, 0) for way in ("windows", "linear")),
    ],
    measures=(*HEALING, *CHOOSING, *SERVING),
)
