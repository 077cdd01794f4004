"""SmolLM2 in vLLM on this CPU: throughput of healed plans over their base, by `lbdsl bench --engine vllm`, and perplexity.

Needs `make model`, and vLLM in an environment of its own, which the first row makes (`--install`). Runs of 50 requests of
1,024 tokens that write 256, five pairs by turns; rows `more-*` have 100 and 200 requests, and 64 tokens, in two pairs. The
rows with `-w8a8` round the linear maps of a healed model to 8 bits, and their inputs. Plans with drops and learned sinks
are served by the plug-in (`plug-in`: 1), the others by vLLM as it is. Healed on the best mixture of
`benchmarks/tables/healing.py`, in whose folder the healed models are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.evaluated import FORMATS, TEXTS, evaluated, increases, judge, made
from benchmarks.table import Row, Table, once
from benchmarks.tables.healing import BEST, BY, PLAN, Healing
from benchmarks.tables.judged import MODEL, lbdsl

PLANS = {
    "window30": ("layers all swa(window=256, sinks=learned)", 100),
    "window30-128": ("layers all swa(window=128, sinks=learned)", 100),
    "drop8-window16": (PLAN, 400),
    "drop8-window22-128": ("layers 4-7, 17, 25, 26, 29 drop\nelse swa(window=128, sinks=learned)", 200),
}
"""Rules, and thousands of tokens to heal on."""
ROUNDED = "lbr 1\nlayers all quantize(bits=8, activations=8)\n"
USUAL = ("--lengths", "1024/256", "--concurrency", "50", "--pairs", "5")
MORE = ("--lengths", "1024/256,1024/64", "--concurrency", "50,100,200", "--pairs", "2")


def served(plan: str, rounded: bool, asked: tuple[str, ...], work: Path) -> dict[str, float]:
    rules, thousands = PLANS[plan]
    healing, folder = Healing(BEST, "distill", BY, thousands), work.parent / "healing"
    name, recipe = healing.key if rules == PLAN else plan, healing.recipe(rules, folder)
    artifact, judged = made(folder, name, recipe), evaluated(folder, name, recipe)
    if rounded:
        artifact = once(work / f"{plan}-w8a8", partial(round_to_8_bits, artifact))
        judged = {text: judge(artifact, text, "--against", MODEL) for text in TEXTS}
    words = ("--against", MODEL, "--engine", "vllm", "--install", *asked, "--json")
    found = json.loads(lbdsl("bench", str(artifact), *words).stdout)
    figures = increases(judged) | {"plug-in": int(found["export"] == "vllm")}
    for cell in found["cells"]:
        at = f"{cell['batch']} x {cell['context']}/{cell['output']}"
        figures |= {f"{at} base": cell["base"], at: cell["ratio"], f"{at} low": cell["low"], f"{at} high": cell["high"]}
    return figures


def round_to_8_bits(healed: Path, out: Path) -> None:
    recipe = out.with_name("w8a8.lbr")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(ROUNDED, encoding="utf-8")
    lbdsl("apply", str(recipe), str(healed), "-o", str(out), "--again", "--yes", "--force")


def rows() -> Iterator[Row]:
    for plan in PLANS:
        for suffix in ("", "-w8a8"):
            yield Row(f"{plan}{suffix}", partial(served, plan, bool(suffix), USUAL))
    for plan in ("window30-128", "drop8-window16"):
        yield Row(f"more-{plan}", partial(served, plan, False, MORE))


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
    rows=list(rows()),
)
