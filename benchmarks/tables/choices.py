"""Compare ways to choose KV heads (`kv_heads`) and MLP channels (`width`) on SmolLM2, without healing.

Needs `make model`. Statistics are collected on pydoc; evaluated on both built-in texts, with 1Ki tokens per sequence.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.table import CHANGING, HOME, JUDGING, ROOT, Row, Table
from benchmarks.tables.judged import MODEL

SETTINGS = """lbr 1
measure {{ data = "builtin:pydoc"; tokens = 4Ki; seq = 512 }}
eval {{ data = ["builtin:wikitext", "builtin:pydoc"]; tokens = 4Ki; seq = 1Ki }}
layers {layers} {action}
else keep
"""
KV_LAYERS = {"one": "12", "five": "8, 12, 16, 20, 24", "4-27": "4-27"}
KV_HEADS = {"mean-aligned": "", "mean": ", align=false", "strongest": ", method=strongest"}
WIDTHS = {"75": 1152, "87.5": 1344}
WIDTH_LAYERS = {"all": "all", "4-27": "4-27"}


def row(key: str, layers: str, action: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        recipe, folder = work / f"{key}.lbr", work / key
        recipe.write_text(SETTINGS.format(layers=layers, action=action), encoding="utf-8")
        words = ("apply", str(recipe), MODEL, "-o", str(folder), "--yes", "--force")
        environment = {**os.environ, "LBDSL_PLUGINS": str(HOME / "random_width.py")}
        command = [sys.executable, "-m", "lbdsl", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        record = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))
        shutil.rmtree(folder)
        return {source["data"].removeprefix("builtin:"): source["loss_rise"] for source in record["evaluation"]["sources"]}

    return Row(key, run)


def rows() -> list[Row]:
    found = [
        row(f"kv_heads-{place}-{name}", layers, f"kv_heads(1{options})")
        for place, layers in KV_LAYERS.items()
        for name, options in KV_HEADS.items()
    ]
    for share, count in WIDTHS.items():
        ways = {"importance": f"width({share}%, refit=false)", "refit": f"width({share}%)"}
        ways["random"] = f"random_width(channels={count})"
        found += [
            row(f"width-{share}-{place}-{name}", layers, action)
            for place, layers in WIDTH_LAYERS.items()
            for name, action in ways.items()
        ]
    return found


TABLE = Table(
    title="rise of SmolLM2's loss in nats a token, unhealed",
    columns={"wikitext": "+.3f", "pydoc": "+.3f"},
    rows=rows(),
    measures=(*CHANGING, *JUDGING),
)
