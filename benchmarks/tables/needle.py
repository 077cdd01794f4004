"""What SmolLM2 finds in long texts, as shares of what its base finds: windows of 512 tokens in 23 of 30 layers.

Needs `make model`. The layers are those of the least `recall` or `kl` of the window with four sink tokens; the cache at 8Ki
tokens is 28 % of the base's. A plan is SCORE-SINKS-HEALING: `25-2Ki` is healed on 50k tokens in sequences of 2Ki, 25 % of
them `builtin:recall`, the rest pydoc and documentation in equal parts; `slow` learns at a rate of 2e-4 instead of 1e-3, on
50k tokens or as many as it names. Recoveries (8 texts of each length, mean over the kinds of facts), the error of the
whole, and the worst kind; `wikitext` is the rise of perplexity on 32Ki tokens of `builtin:wikitext` in sequences of 8Ki.
The row `base` has the shares that the base finds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.evaluated import increases, judge, made
from benchmarks.table import CHOOSING, HEALING, Row, Table, once

ACTION = "swa(window=512, sinks={})"
SINKS = {"learned": "learned", "tokens": "4"}
CONTEXTS = ("512", "1Ki", "2Ki", "4Ki")
PLANS = (
    *("recall-tokens-unhealed", "recall-learned-unhealed", "kl-tokens-unhealed", "recall-learned-25-2Ki"),
    *("recall-learned-0-2Ki", "kl-learned-0-2Ki", "kl-learned-25-2Ki", "recall-learned-25-1Ki", "recall-learned-25-4Ki"),
    *("recall-tokens-25-1Ki", "recall-tokens-25-4Ki", "recall-learned-50-2Ki", "recall-learned-10-2Ki"),
    *("recall-tokens-25-2Ki-slow", "recall-tokens-25-2Ki-slow-100k"),
)


def recipe(plan: str) -> str:
    score, sinks, share, seq, slow, tokens = (*plan.split("-"), "", "", "")[:6]
    action = ACTION.format(SINKS[sinks])
    rules = f"lowest 23 by {score}({ACTION.format(4)}) {action}\nelse keep"
    heal = ""
    if share != "unhealed":
        texts, weights = ['"builtin:pydoc"', '"builtin:docs"'], [100 - int(share)] * 2
        if int(share):
            texts, weights = [*texts, '"builtin:recall"'], [*weights, 2 * int(share)]
        data = f"mix({', '.join(texts)}, weights={weights})"
        heal = (
            f"heal {{ data = {data}; tokens = {tokens or '50k'}; seq = {seq}; method = lora(rank=64, alpha=128); "
            f"lr = {'2e-4' if slow else '1e-3'}; batch = 1 }}"
        )
    return f'measure {{ data = "builtin:pydoc"; tokens = 8Ki }}\n{rules}\n{heal}'


def answers(work: Path, plan: str) -> dict[str, Any]:
    """What `lbdsl eval --json` says of one artifact and of its base, asked once."""

    def make(path: Path) -> None:
        folder = made(work, plan, recipe(plan))
        asked = [word for context in CONTEXTS for word in ("--needle", context)]
        picture = work / f"{plan}.png"
        path.write_text(json.dumps(judge(folder, "wikitext", *asked, "-o", str(picture), seq=8192, tokens=32768)))

    return dict(json.loads(once(work / f"{plan}.json", make).read_text()))


def figures(task: dict[str, Any]) -> dict[str, float]:
    """The recovery in the mean over kinds, its error over all answers, and the least of a kind."""
    kinds = [kind["artifact"] / kind["base"] for kind in task["kinds"].values() if kind["base"]]
    return {"": sum(kinds) / len(kinds), " error": task["stderr"]["recovery"], " worst": min(kinds)}


def row(plan: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        found = answers(work, plan)
        asked = zip(CONTEXTS, found["tasks"], strict=True)
        shares = {f"{context}{what}": value for context, task in asked for what, value in figures(task).items()}
        return shares | increases({"wikitext": found})

    return Row(plan, run)


def base(work: Path) -> dict[str, float]:
    tasks = zip(CONTEXTS, answers(work, PLANS[0])["tasks"], strict=True)
    return {
        name: value
        for context, task in tasks
        for name, value in (
            (context, task["base"]),
            (f"{context} error", task["stderr"]["base"]),
            (f"{context} worst", min(kind["base"] for kind in task["kinds"].values())),
        )
    }


TABLE = Table(
    title="facts found in texts of 512 to 4Ki tokens, 23 of 30 layers of SmolLM2 windowed at 512, as shares of its base's",
    columns={f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error", " worst")}
    | {"wikitext": "+.1%", "wikitext error": ".1%"},
    rows=[Row("base", base), *map(row, PLANS)],
    measures=(*HEALING, *CHOOSING),
)
