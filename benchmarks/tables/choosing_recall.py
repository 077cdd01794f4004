"""Ways to choose which layers of SmolLM2 get windows, by what the plans remember, at equal cache.

Needs `make model`. A plan is WAY-CACHE: windows of 256 tokens with four sink tokens in so many layers that the cache at 8Ki
tokens is 16, 22 or 29 % of the base's, nothing healed; `WAY-CACHE-512` has windows of 512, `-healed` is healed on 100k
tokens in sequences of 2Ki, a quarter of them `builtin:recall`. `sensitivity`, `kl`, `recall` and `sum` (`kl + 0.2 *
recall`) rank layers by scores; `choose-sum` minimizes that sum, `choose-bound` `kl` with recall at most that of the plan by
`recall` and its error, both with 60 plans tried. `objective` is the sum of the whole plan, on other texts. Recoveries as
in the table `needle`; perplexity in sequences of 2Ki, of healed plans of 8Ki.
`python -m benchmarks.tables.choosing_recall PICTURE` draws what is found against the cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.evaluated import increases, judge, made
from benchmarks.table import CHOOSING, HEALING, Row, Table, once, rows_of
from benchmarks.tables.heads import HEAL, draw_found
from benchmarks.tables.needle import figures

LAYERS, POSITIONS, SINKS, WEIGHT = 30, 8192, 4, 0.2
WINDOWED = {256: {22: 24, 29: 22, 16: 26}, 512: {22: 25, 29: 23, 16: 27}}
"""How many layers have windows of so many tokens, by the cache in percent."""
WAYS = ("sum", "choose-sum", "recall", "kl", "sensitivity", "choose-bound")
BEST = ("sum", "choose-sum")
CONTEXTS = {"": ("1Ki", "2Ki"), "-healed": ("1Ki", "2Ki", "4Ki")}


def plan(way: str, cache: int, window: int, recall: float | None = None) -> str:
    """A recipe without healing; `recall` bounds that of `choose-bound`."""
    action, count = f"swa({window}, {SINKS})", WINDOWED[window][cache]
    share = (count * (window + SINKS) / POSITIONS + LAYERS - count) / LAYERS
    choose = f"choose for layers all among keep, {action}\n  minimizing"
    budget = f"kv(8Ki) <= {100 * share + 0.01:.2f}%"
    rules = {
        "sensitivity": f"lowest {count} by sensitivity {action}",
        "kl": f"lowest {count} by kl({action}) {action}",
        "recall": f"lowest {count} by recall({action}) {action}",
        "sum": f"lowest {count} by kl({action}) + {WEIGHT} * recall({action}) {action}",
        "choose-sum": f"{choose} kl + {WEIGHT} * recall subject to {budget}",
        "choose-bound": f"{choose} kl subject to recall <= {recall}, {budget}",
    }
    measure = 'measure { data = "builtin:pydoc"; tokens = 8Ki; recall_questions = 40; tries = 60 }'
    return f"{measure}\n{rules[way]}\nelse keep\n"


def made_plan(work: Path, way: str, cache: int, window: int, healed: str) -> tuple[Path, dict[str, Any]]:
    """The artifact and its plan."""
    worst = None
    if way == "choose-bound":
        (_, by_recall) = made_plan(work, "recall", cache, window, "")
        worst = round(by_recall["recall"]["value"] + by_recall["recall"]["stderr"], 3)
    folder = made(work, f"{way}-{cache}-{window}{healed}", plan(way, cache, window, worst) + (HEAL if healed else ""))
    return folder, json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]


def row(way: str, cache: int, window: int = 256, healed: str = "") -> Row:
    name = f"{way}-{cache}" + (f"-{window}" if window != 256 else "") + healed

    def run(work: Path) -> dict[str, float]:
        folder, planned = made_plan(work, way, cache, window, healed)

        def make(path: Path) -> None:
            asked = [word for context in CONTEXTS[healed] for word in ("--needle", context)]
            words = (*asked, "-o", str(work / f"{name}.png"))
            path.write_text(json.dumps(judge(folder, "wikitext", *words, seq=8192 if healed else 2048, tokens=32768)))

        found = json.loads(once(work / f"{name}.judged.json", make).read_text())
        kl, recall = planned["loss"]["scores"]["kl"]["value"], planned["recall"]["value"]
        done = {
            "kv": planned["after"]["kv_bytes"]["8192"] / planned["before"]["kv_bytes"]["8192"],
            "kl": kl,
            "recall": recall,
            "recall error": planned["recall"]["stderr"],
            "objective": kl + WEIGHT * recall,
        }
        for context, task in zip(CONTEXTS[healed], found["tasks"], strict=True):
            done |= {f"{context}{what}": value for what, value in figures(task).items()}
            done |= {
                f"{context} {kind}": its["artifact"] / its["base"] for kind, its in task["kinds"].items() if its["base"]
            }
        return done | increases({"wikitext": found})

    return Row(name, run)


KINDS = ("numbers", "words", "changed")
TABLE = Table(
    title="facts found by SmolLM2 with windows in layers that are chosen in several ways, as shares of its base's",
    columns={"kv": ".1%", "kl": ".3f", "recall": "+.2f", "recall error": ".2f", "objective": ".3f"}
    | {f"{context}{of}": ".0%" for context in ("1Ki", "2Ki") for of in ("", " error", *(f" {kind}" for kind in KINDS))}
    | {"4Ki": ".0%", "4Ki error": ".0%", "wikitext": "+.1%", "wikitext error": ".1%"},
    rows=[
        *(row(way, cache) for cache in WINDOWED[256] for way in WAYS),
        *(row(way, 22, healed="-healed") for way in (*BEST, "choose-bound")),
        *(row(way, cache, 512) for cache in WINDOWED[512] for way in BEST),
    ],
    measures=(*HEALING, *CHOOSING),
)


def draw(path: Path) -> None:
    """A line a way, stars healed, dashes windows of 512. `recall` takes the layers of `sum`."""
    done = {key: each["figures"] for key, each in rows_of("choosing_recall").items()}
    lines = {}
    for number, way in enumerate(way for way in WAYS if way != "recall"):
        for kind, style in {"": "o-", "-512": "s--", "-healed": "*"}.items():
            if found := [done[key] for cache in sorted(WINDOWED[256]) if (key := f"{way}-{cache}{kind}") in done]:
                label = f"{way}, recall" if way == "sum" and not kind else f"{way}{kind}"
                lines[label] = (f"C{number}{style}", found)
    draw_found(path, lines)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
