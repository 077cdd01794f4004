"""Plans of SmolLM2 that `choose` finds for an engine and a budget of its cache, exported and run there, before healing.

Needs `make model`; the engines' environments are made by the first rows (`--install`). One list of alternatives for all.
`windows`, `dropped` and `kv heads`: how many layers the plan changes so. `loss`: the KL of the plan on calibration text
that neither scored nor chose. `over base`: output tokens a second, in vLLM over whole runs, in llama.cpp of decoding.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.table import CHANGING, CHOOSING, SERVING, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

BUDGETS = (60, 40, 25)
SERVED = {
    "vllm": ("--lengths", "1024/64", "--concurrency", "16", "--pairs", "2"),
    "llamacpp": ("--contexts", "4Ki", "--batches", "1", "--pairs", "2"),
}
ALTERNATIVES = "keep, swa(window=256), swa(window=256, sinks=learned), kv_heads(1), drop"


def chosen(engine: str, budget: int, work: Path) -> dict[str, float]:
    name = f"{engine}-{budget}"
    recipe, cache = work / f"{name}.lbr", ("--cache-dir", str(work / "cache"))
    work.mkdir(parents=True, exist_ok=True)
    limits = f'kv(8Ki) <= {budget}%, serves("{engine}")'
    recipe.write_text(
        "lbr 1\nmeasure { tokens = 4Ki; seq = 1Ki; tries = 8 }\n"
        f"choose for layers all among {ALTERNATIVES} minimizing kl subject to {limits}\nelse keep\n",
        encoding="utf-8",
    )
    words = ("--yes", "--no-heal", *cache)
    folder = once(work / name, lambda out: lbdsl("apply", str(recipe), MODEL, "-o", str(out), *words))
    plan = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
    layers = [layer["after"] for layer in plan["layers"]]
    heads = plan["layers"][0]["before"]["mixer"]["kv_heads"]
    asked = ("--engine", engine, "--install", *SERVED[engine], "--json", *cache)
    cells = json.loads(lbdsl("bench", str(folder), *asked).stdout)["cells"]
    (cell,) = (cell for cell in cells if cell["metric"] in ("throughput", "decode"))
    return {
        "kv": plan["after"]["kv_bytes"]["8192"] / plan["before"]["kv_bytes"]["8192"],
        "windows": sum(bool((layer["mixer"] or {}).get("window")) for layer in layers),
        "dropped": sum(layer["mixer"] is None for layer in layers),
        "kv heads": sum((layer["mixer"] or {}).get("kv_heads", heads) < heads for layer in layers),
        "loss": plan["loss"]["scores"]["kl"]["value"],
        "over base": cell["ratio"],
        "again": cell["again"],
    }


TABLE = Table(
    title="Plans of SmolLM2 chosen for an engine, and run in it",
    columns={"kv": ".1%"}
    | dict.fromkeys(("windows", "dropped", "kv heads"), "d")
    | {"loss": ".4f", "over base": ".2f", "again": ".2f"},
    rows=[Row(f"{engine}-{budget}", partial(chosen, engine, budget)) for engine in SERVED for budget in BUDGETS],
    measures=(*CHANGING, *CHOOSING, *SERVING),
)
