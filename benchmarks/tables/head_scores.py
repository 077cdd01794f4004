"""Which KV head of a layer should stay full: the one whose window, alone, costs most recall (`exact`), what a screen of
that says, and what `swa(full_heads=1)` takes, by `window_harm`.

Needs `make model`. SmolLM2, windows of 256 tokens with four sink tokens, 40 questions of `builtin:recall`. `spearman`
is the rank correlation with `exact` over all 90 heads; `same`, in how many of the 30 layers the first head is the
same; `lost`, how many nats per token of an answer the other heads would have kept, summed over layers; `seconds` with
loading, on one core.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import CHANGING, CHOOSING, JUDGING, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl
from benchmarks.tables.recall import LAYERS, recipe, scores
from benchmarks.tables.tasks import spearman

HEADS = 3
QUESTIONS = "; recall_questions = 40"


def rises(work: Path, name: str, settings: str = "") -> dict[str, Any]:
    """What each head's window costs alone, [layer][head], and the seconds that it took to say."""

    def make(path: Path) -> None:
        start, found = time.perf_counter(), []
        for head in range(HEADS):
            full = [other for other in range(HEADS) if other != head]
            score = f"recall(swa(window=256, sinks=4, full_heads={full}))"
            said = scores(work, f"{name}-{head}", score, QUESTIONS + settings)
            of_layer = {row["layer"]: row["value"] for row in said}
            found.append([of_layer[layer] for layer in range(LAYERS)])
        seconds = time.perf_counter() - start
        path.write_text(json.dumps({"rises": list(zip(*found, strict=True)), "seconds": seconds}))

    return dict(json.loads(once(work / f"{name}.json", make).read_text()))


def first(work: Path) -> dict[str, Any]:
    """The head that `full_heads=1` takes of each layer, and the seconds that its plan took."""

    def make(path: Path) -> None:
        file = path.with_suffix(".lbr")
        file.write_text(recipe("else swa(window=256, sinks=4, full_heads=1)"))
        start = time.perf_counter()
        plan = json.loads(lbdsl("plan", str(file), MODEL, "--no-recall", "--json").stdout)
        taken = [layer["actions"][0]["action"] for layer in plan["layers"]]
        heads = [int(text.split("full_heads=[")[1].split("]")[0]) for text in taken]
        path.write_text(json.dumps({"heads": heads, "seconds": time.perf_counter() - start}))

    return dict(json.loads(once(work / "harm.json", make).read_text()))


def against(exact: list[list[float]], heads: list[int]) -> dict[str, float]:
    named = [of_layer[head] for of_layer, head in zip(exact, heads, strict=True)]
    most = list(map(max, exact))
    return {
        "same": sum(one == other for one, other in zip(named, most, strict=True)),
        "lost": sum(most) - sum(named),
    }


def most_of(found: list[list[float]]) -> list[int]:
    return [max(range(HEADS), key=of_layer.__getitem__) for of_layer in found]


def exact(work: Path) -> Mapping[str, float]:
    found = rises(work, "exact")
    return {"spearman": 1.0, **against(found["rises"], most_of(found["rises"])), "seconds": found["seconds"]}


def screen(work: Path) -> Mapping[str, float]:
    true, found = rises(work, "exact")["rises"], rises(work, "screen", "; strategy = screen")
    flat = [[rise for of_layer in of_all for rise in of_layer] for of_all in (found["rises"], true)]
    return {"spearman": spearman(*flat), **against(true, most_of(found["rises"])), "seconds": found["seconds"]}


def harm(work: Path) -> Mapping[str, float]:
    found = first(work)
    return {**against(rises(work, "exact")["rises"], found["heads"]), "seconds": found["seconds"]}


TABLE = Table(
    title="which KV head of each layer of SmolLM2 should stay full: by recall, by its screen, by `window_harm`",
    columns={"spearman": ".2f", "same": "d", "lost": ".2f", "seconds": ".0f"},
    rows=[Row("exact", exact), Row("screen", screen), Row("harm", harm)],
    measures=(*CHANGING, *JUDGING, *CHOOSING),
)
