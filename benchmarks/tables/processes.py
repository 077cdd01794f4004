"""Healing SmolLM2 by one process, by two with the whole model each (DDP), and by two with a share of it each (FSDP2).

Needs `make model`. 50 steps on 2 x 64 tokens in float32, of a plan whose layers have different shapes: dropped attentions,
windows, fewer KV heads, a narrower MLP. `loss` is the training loss of the last step; `loss apart` and `weights apart` are
the greatest differences to one process, of any step and of any weight; `wikitext` is the rise of perplexity.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.table import ROOT, Row, Table, once
from benchmarks.tables.judged import MODEL
from benchmarks.tables.memory import SHARED

RECIPE = """lbr 1
layers 4-5 drop
layers 8-12 swa(window=256, sinks=learned)
layers 14-15 kv_heads(1)
layers 20-21 width(75%)
heal { data = "builtin:pydoc"; tokens = 6400; seq = 64; batch = 2 }
eval { data = "builtin:wikitext"; tokens = 4Ki; seq = 1Ki }
"""
STARTS = {"one": 1, "two": 2, "two-shared": 2}


def made(work: Path, name: str) -> Path:
    recipe = work / "mixed.lbr"
    work.mkdir(parents=True, exist_ok=True)
    recipe.write_text(RECIPE)
    count = STARTS[name]
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"] if count > 1 else []

    def make(out: Path) -> None:
        words = ["lbdsl", "apply", str(recipe), MODEL, "-o", str(out), "--yes", "--resume", "--dtype", "float32"]
        environment = os.environ | (SHARED if name == "two-shared" else {})
        command = [sys.executable, "-m", *start, *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])

    return once(work / name, make)


def apart(one: Path, other: Path) -> float:
    from safetensors.torch import load_file

    weights = [load_file(next(folder.glob("*.safetensors"))) for folder in (one, other)]
    return max(float((weight - weights[1][name]).abs().max()) for name, weight in weights[0].items())


def row(name: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        folders = [made(work, "one"), made(work, name)]
        records = [json.loads((folder / "lbdsl.json").read_text(encoding="utf-8")) for folder in folders]
        curves = [dict(map(tuple, record["heal"]["curve"])) for record in records]
        return {
            "steps": records[1]["heal"]["steps"],
            "loss": records[1]["heal"]["curve"][-1][1],
            "loss apart": max(abs(loss - curves[0][tokens]) for tokens, loss in curves[1].items()),
            "weights apart": apart(*folders),
            "wikitext": records[1]["evaluation"]["sources"][0]["ppl_increase"],
            "seconds": records[1]["heal"]["seconds"],
        }

    return Row(name, run)


TABLE = Table(
    title="healing SmolLM2 by one process and by two",
    columns={
        "steps": "d",
        "loss": ".4f",
        "loss apart": ".1e",
        "weights apart": ".1e",
        "wikitext": "+.2%",
        "seconds": ".0f",
    },
    rows=[row(name) for name in STARTS],
    measures=("lbdsl/heal",),
)
