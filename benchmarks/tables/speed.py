"""Prefill and decoding of SmolLM2 in transformers, by `lbdsl bench`, for plans that are not healed.

Needs `make model`. `allowed` is how much faster the prefill would be if the windowed layers alone were as much faster as
the attention kernels are (`benchmarks/tables/windows.py`, timed anew in the row), and nothing else changed; `captured` the
share of that gain. Decoding is beside its bound by arithmetic.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.table import Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

PLANS = {
    "window16": "layers 1-16 swa(window=256)\n",
    "drop8-window16": "layers 4-7, 17, 25, 26, 29 drop\nlayers 1-3, 8-16, 18-21 swa(window=256)\n",
    "window30": "layers all swa(window=256)\n",
}
CONTEXTS = (256, 1024, 4096, 8128)
BATCHES = {context: (1,) if context > 4096 else (1, 8) for context in CONTEXTS}
"""Eight sequences of 8Ki take a quarter of an hour."""


def unhealed(plan: str, rules: str, work: Path) -> Path:
    recipe = work / f"{plan}.lbr"
    work.mkdir(parents=True, exist_ok=True)
    recipe.write_text(f"lbr 1\nmeasure {{ tokens = 4Ki; seq = 1Ki }}\n{rules}else keep\n", encoding="utf-8")
    words = ("--yes", "--force", "--no-heal")
    return once(work / plan, lambda folder: lbdsl("apply", str(recipe), MODEL, "-o", str(folder), *words))


def benched(folder: Path, context: int, work: Path, *engine: str) -> dict[str, dict[str, Any]]:
    """The cells of one context by what is measured: `prefill`, `decode 8`."""
    batches = ",".join(map(str, BATCHES[context]))
    # A cache without profiles: what is predicted is the bound.
    cache = ("--cache-dir", str(work / "cache"))
    done = lbdsl("bench", str(folder), "--contexts", str(context), "--batches", batches, "--json", *cache, *engine)
    cells = json.loads(done.stdout)["cells"]
    return {cell["metric"] + (f" {cell['batch']}" if cell["metric"] != "prefill" else ""): cell for cell in cells}


def row(plan: str, context: int) -> Row:
    def run(work: Path) -> dict[str, float]:
        found = benched(unhealed(plan, PLANS[plan], work), context, work)
        prefill = found["prefill"]
        figures = {
            "prefill": prefill["ratio"],
            "again": prefill["again"],
            **{f"decode {batch}": found[f"decode {batch}"]["ratio"] for batch in BATCHES[context]},
            **{f"bound {batch}": found[f"decode {batch}"]["predicted"] for batch in BATCHES[context]},
        }
        allowed = kernels_allow(work / plan, context, context / prefill["base"])
        if allowed > 1:
            figures |= {"allowed": allowed, "captured": (prefill["ratio"] - 1) / (allowed - 1)}
        return figures

    return Row(f"{plan}-{context}", run)


def kernels_allow(artifact: Path, context: int, seconds: float) -> float:
    """The speed-up of a prefill of `seconds` when each windowed layer saves what the kernel does; dropped attentions are
    left out, so for plans with drops it is too small."""
    from benchmarks.tables.windows import Ways
    from lbdsl.model.computing import compute_dtype

    record = json.loads((artifact / "lbdsl.json").read_text(encoding="utf-8"))
    windows = sum(bool((layer["after"]["mixer"] or {}).get("window")) for layer in record["plan"]["layers"])
    ways = Ways(context, compute_dtype(record["plan"]["model"]["dtype"], "cpu"), backward=False, window=256)
    timed = [statistics.median(way() for _ in range(15)) for way in (ways.causal(), ways.bands())]
    return seconds / (seconds - windows * max(0.0, timed[0] - timed[1]))


TABLE = Table(
    title="SmolLM2 in transformers: artifact over base",
    columns={
        "prefill": ".2f",
        "again": ".2f",
        "allowed": ".2f",
        "captured": ".0%",
        **{f"{what} {batch}": ".2f" for what in ("decode", "bound") for batch in (1, 8)},
    },
    rows=[row(plan, context) for plan in PLANS for context in CONTEXTS],
    measures=("lbdsl/model/hybrid", "lbdsl/bench"),
)
