"""The shipped recipes, and those for Gemma, in unmodified vLLM and llama.cpp on this CPU: tokens a second over the base's.

Needs `make model`, Gemma for the rows `gemma-...`, and both engines in environments of their own, which the first row
makes (`--install`). The artifacts are those of `judged`, or where those are gone made anew, neither healed nor judged:
that changes no shape, and so no speed. `vllm`: output tokens a second of 16 requests at once of 1Ki tokens, that write
64 each; `decode` and `prefill`: llama.cpp at 4Ki tokens, one sequence; three pairs each. A blank is what an export, or
the engine on a CPU, refuses: the row's file has its words.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.table import CHOOSING, HEALING, SERVING, WORK, Row, Table, once, uses
from benchmarks.tables.judged import OF_GEMMA, RECIPES, lbdsl, source

ASKED = {
    "vllm": ("--lengths", "1024/64", "--concurrency", "16"),
    "llamacpp": ("--contexts", "4Ki", "--batches", "1"),
}
SHOWN = {"throughput": "vllm", "decode": "decode", "prefill": "prefill"}
REFUSED = re.compile(r"^error\[LB\d+\].*(?:\n  [^ =].*)*", re.MULTILINE)
HEAL_AND_GATES = re.compile(r"^heal \{.*?^\}\n|^(?:eval|assert) [^\n]*\n", re.MULTILINE | re.DOTALL)


def unhealed(recipe: str, work: Path) -> Path:
    file, model = source(recipe, work)
    path = work / f"{recipe}.lbr"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAL_AND_GATES.sub("", Path(file).read_text(encoding="utf-8")), encoding="utf-8")
    return once(work / recipe, lambda folder: lbdsl("apply", str(path), model, "-o", str(folder), "--yes", "--resume"))


def row(recipe: str, work: Path) -> dict[str, Any]:
    made = WORK / "judged" / recipe
    folder = uses(made) if made.exists() else unhealed(recipe, work)
    found: dict[str, Any] = {}
    for engine, asked in ASKED.items():
        words = ("bench", str(folder), "--engine", engine, "--install", *asked, "--pairs", "3", "--json")
        done = lbdsl(*words, codes=tuple(range(8)))
        if done.returncode:
            refused = REFUSED.search(done.stderr)
            if refused is None:
                raise RuntimeError(done.stderr[-2000:])
            found[f"{engine} refuses"] = " ".join(refused[0].split())
            continue
        for cell in json.loads(done.stdout)["cells"]:
            if name := SHOWN.get(cell["metric"]):
                found |= {name: cell["ratio"], f"{name} low": cell["low"], f"{name} high": cell["high"]}
                found |= {f"{name} base": cell["base"]}
    return found


TABLE = Table(
    title="recipes in vLLM and llama.cpp on a CPU: tokens a second over the base's",
    columns={
        f"{name}{what}": form
        for name in SHOWN.values()
        for what, form in (("", ".2f"), (" low", ".2f"), (" high", ".2f"), (" base", ".0f"))
    },
    rows=[Row(recipe, partial(row, recipe)) for recipe in (*RECIPES, *OF_GEMMA)],
    measures=(*HEALING, *CHOOSING, *SERVING),
)
