"""SmolLM2 in vLLM on this CPU: throughput of healed plans over their base, by `lbdsl bench --engine vllm`, and perplexity.

Needs `make model`, and vLLM in an environment of its own, which the first row makes (`--install`). Runs of 50 requests of
1,024 tokens that write 256, five pairs by turns; rows `more-*` have 100 and 200 requests, and 64 tokens, in two pairs. The
rows of a plan with `-w8a8` store all its linear maps in 8 bits with 8-bit activations. Plans with drops and learned sinks
are served by the plug-in (`plug-in`: 1).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, made
from benchmarks.table import Row, Table
from benchmarks.tables.judged import lbdsl

DATA = 'data = mix("builtin:pydoc", "builtin:docs"); tokens = 100k; seq = 1Ki'
HEAL = f"heal {{ {DATA}; method = lora(rank=64, alpha=128); lr = 2e-3; batch = 1 }}"
SWA = "swa(window=256, sinks=learned)"
PLANS = {
    "window20": f"layers 1-16, 18-21 {SWA}",
    "drop4-window19": f"layers 17, 25, 26, 29 drop\nlayers 1-16, 18-20 {SWA}",
    "drop8-window16": f"layers 4-7, 17, 25, 26, 29 drop\nlayers 1-3, 8-16, 18-21 {SWA}",
}
W8A8 = "layers all quantize(bits=8, activations=8)"
USUAL = ("--lengths", "1024/256", "--concurrency", "50", "--pairs", "5")
MORE = ("--lengths", "1024/256,1024/64", "--concurrency", "50,100,200", "--pairs", "2")


def served(name: str, recipe: str, asked: tuple[str, ...], work: Path) -> dict[str, float]:
    artifact = made(work, name, recipe)
    words = ("--engine", "vllm", "--install", *asked, "--json")
    found = json.loads(lbdsl("bench", str(artifact), *words).stdout)
    figures = increases(evaluated(work, name, recipe)) | {"plug-in": int(found["export"] == "vllm")}
    for cell in found["cells"]:
        if cell["metric"] == "throughput":
            at = f"{cell['batch']} x {cell['context']}/{cell['output']}"
            figures |= {f"{at} base": cell["base"], at: cell["ratio"], f"{at} low": cell["low"], f"{at} high": cell["high"]}
    return figures


def rows() -> list[Row]:
    found = []
    for name, rules in PLANS.items():
        for suffix, more in {"": "", "-w8a8": f"\n{W8A8}"}.items():
            recipe = f"{rules}{more}\nelse keep\n{HEAL}"
            found.append(Row(f"{name}{suffix}", partial(served, f"{name}{suffix}", recipe, USUAL)))
    recipe = f"{PLANS['drop8-window16']}\nelse keep\n{HEAL}"
    return [*found, Row("more-drop8-window16", partial(served, "drop8-window16", recipe, MORE))]


CELLS = [f"{requests} x 1024/{written}" for written in (256, 64) for requests in (50, 100, 200)]
TABLE = Table(
    title="SmolLM2 in vLLM on a CPU: output tokens a second, healed plans over the base",
    columns=FORMATS
    | {"plug-in": "d"}
    | {
        f"{cell}{what}": form
        for cell in CELLS
        for what, form in {" base": ".0f", "": ".2f", " low": ".2f", " high": ".2f"}.items()
    },
    rows=rows(),
)
