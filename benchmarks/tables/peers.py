"""Rules that others prune by, said as recipes, on SmolLM2 beside one of ours; nothing is healed.

Needs `make model`. `llm-drop-N` drops the N attentions whose output changes the stream least (LLM-Drop, arXiv
2406.15786), `shortgpt-N` so many whole layers (ShortGPT, arXiv 2403.03853), `sensitivity-N` the attentions that the
loss needs least. `uniform` and `uniform-sinks` have one window in all layers, and the cache at 8Ki that `recall` has,
with windows of 512 and four sink tokens in the 23 layers where they cost the least recall. `kv` at 8Ki tokens and
`weights` are shares of the base's; perplexity on WikiText at 8Ki tokens, and needles, as shares of what the base finds.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.evaluated import increases, judge, made
from benchmarks.table import CHOOSING, HEALING, Row, Table, once
from benchmarks.tables.heads import CONTEXTS, POSITIONS
from benchmarks.tables.needle import figures

RULES = {
    "recall": "lowest 23 by recall(swa(window=512, sinks=4)) swa(window=512, sinks=4)",
    "uniform": "layers all swa(window=2304)",
    "uniform-sinks": "layers all swa(window=2300, sinks=4)",
    **{f"llm-drop-{n}": f"lowest {n} by influence drop" for n in (4, 8)},
    **{f"sensitivity-{n}": f"lowest {n} by sensitivity drop" for n in (4, 8)},
    **{f"shortgpt-{n}": f"lowest {n} by influence(block) drop(block)" for n in (2, 4)},
}
MEASURE = 'measure {{ data = "builtin:{text}"; tokens = 8Ki; recall_questions = 40 }}'


def judged(folder: Path, path: Path) -> None:
    needles = [word for context in CONTEXTS for word in ("--needle", context)]
    words = (*needles, "-o", str(path.with_suffix(".png")))
    path.write_text(json.dumps(judge(folder, "wikitext", *words, seq=POSITIONS, tokens=32768)))


def row(rule: str, work: Path) -> dict[str, Any]:
    # Twice a window of 2304 is more than pydoc has tokens for; there is nothing to choose by them.
    measure = MEASURE.format(text="docs" if rule.startswith("uniform") else "pydoc")
    folder = made(work, rule, f"{measure}\n{RULES[rule]}\nelse keep", "--no-heal")
    found = json.loads(once(work / f"{rule}.judged.json", partial(judged, folder)).read_text())
    plan = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
    kept, whole = (plan[when]["kv_bytes"][str(POSITIONS)] for when in ("after", "before"))
    done = {"kv": kept / whole, "weights": plan["after"]["weights"] / plan["before"]["weights"]}
    for context, task in zip(CONTEXTS, found["tasks"], strict=True):
        done |= {f"{context}{what}": value for what, value in figures(task).items()}
    return done | increases({"wikitext": found})


TABLE = Table(
    title="rules of others beside one of ours, nothing healed",
    columns={"kv": ".1%", "weights": ".0%", "wikitext": "+.1%", "wikitext error": ".1%"}
    | {f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error")},
    rows=[Row(rule, partial(row, rule)) for rule in RULES],
    measures=(*HEALING, *CHOOSING),
)
