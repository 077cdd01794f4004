"""Full KV heads beside windowed ones against full layers beside windowed ones, at equal cache: what SmolLM2 finds in long
texts, as shares of what its base finds, and perplexity.

Needs `make model`. Windows of 256 tokens with four sink tokens. A plan is WAY-SHARE or WAY-SHARE-healed: by `heads`
each layer has as many full KV heads as `choose` gives it, by `layers` all of them or none, by `named` those heads that
`choose` names; at most SHARE percent of the KV heads are full, and the cache at 8Ki tokens is what that takes. Both
choose by `kl + 0.2 * recall`, estimated by a screen. Healed are those of 20 %, on 100k tokens in sequences of 2Ki, a
quarter of them `builtin:recall`; they are asked at 4Ki, too. Perplexity is in sequences of 8Ki, that of pydoc of 5Ki.
`python -m benchmarks.tables.heads PICTURE` draws what is found against the cache.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.evaluated import increases, judge, made
from benchmarks.table import CHOOSING, HEALING, Row, Table, once, rows_of
from benchmarks.tables.needle import figures

CONTEXTS = ("512", "1Ki", "2Ki", "4Ki")
TEXTS = {"wikitext": (8192, 32768), "pydoc": (5120, 20480)}
"""The length of a sequence and how many tokens in all; `builtin:pydoc` has no four sequences of 8Ki to judge by."""
WINDOW, POSITIONS = 260, 8192
NAMED = ([0, 1], [0, 2], [1, 2], [0], [1], [2])
WAYS = {
    "heads": "keep, swa(256, 4, full_heads=2), swa(256, 4, full_heads=1), swa(256, 4)",
    "layers": "keep, swa(256, 4)",
    "named": f"keep, {', '.join(f'swa(256, 4, full_heads={heads})' for heads in NAMED)}, swa(256, 4)",
}
SHARES = (10, 20, 30)
HEAL = """heal {
  data = mix("builtin:pydoc", "builtin:docs", "builtin:recall", weights=[3, 3, 2])
  tokens = 100k; seq = 2Ki; batch = 1; method = lora(rank=64, alpha=128); lr = 2e-4
}"""
"""At 1e-3 models with sink tokens get worse: the table `needle`."""


def recipe(way: str, share: int, healed: bool) -> str:
    cache = share + (100 - share) * WINDOW / POSITIONS
    measure = 'measure { data = "builtin:pydoc"; tokens = 8Ki; strategy = screen; tries = 0 }'
    budget = f"minimizing kl + 0.2 * recall subject to kv(8Ki) <= {cache + 0.01:.2f}%"
    return f"{measure}\nchoose for layers all among {WAYS[way]} {budget}\nelse keep\n{HEAL if healed else ''}"


def asked(share: int) -> tuple[str, ...]:
    return CONTEXTS if share == 20 else CONTEXTS[:3]


def answers(work: Path, name: str, way: str, share: int, healed: bool) -> dict[str, Any]:
    """What `lbdsl eval --json` says of one artifact and of its base, by text, and what its plan costs."""

    folder = made(work, name, recipe(way, share, healed))
    needles = [word for context in asked(share) for word in ("--needle", context)]
    found = {}
    for text, (seq, tokens) in TEXTS.items():
        words = (*needles, "-o", str(work / f"{name}.png")) if text == "wikitext" else ()

        ask = partial(judge, folder, text, *words, seq=seq, tokens=tokens)

        def make(path: Path, ask: Callable[[], dict[str, Any]] = ask) -> None:
            path.write_text(json.dumps(ask()))

        found[text] = json.loads(once(work / f"{name}-{text}.json", make).read_text())
    plan = json.loads((work / name / "lbdsl.json").read_text(encoding="utf-8"))["plan"]
    mixers = [layer["after"]["mixer"] for layer in plan["layers"]]
    full = [mixer["kv_heads"] if mixer["window"] is None else mixer["window"].get("full_heads", 0) for mixer in mixers]
    costs = {
        "kv": plan["after"]["kv_bytes"]["8192"] / plan["before"]["kv_bytes"]["8192"],
        "full": sum(full) / sum(mixer["kv_heads"] for mixer in mixers),
    }
    return {**found, "costs": costs}


def row(way: str, share: int, healed: bool = False) -> Row:
    name = f"{way}-{share}" + ("-healed" if healed else "")

    def run(work: Path) -> dict[str, float]:
        found = answers(work, name, way, share, healed)
        costs = found.pop("costs")
        tasks = zip(asked(share), found["wikitext"]["tasks"], strict=True)
        shares = {f"{context}{what}": value for context, task in tasks for what, value in figures(task).items()}
        return costs | shares | increases(found)

    return Row(name, run)


TABLE = Table(
    title="facts found by SmolLM2 with full KV heads and with full layers, as shares of its base's, at equal cache",
    columns={"kv": ".1%", "full": ".1%"}
    | {f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error", " worst")}
    | {f"{text}{what}": "+.1%" if not what else ".1%" for text in TEXTS for what in ("", " error")},
    rows=[
        *(row(way, share) for share in SHARES for way in ("heads", "layers")),
        row("named", 20),
        *(row(way, 20, healed=True) for way in ("heads", "layers")),
    ],
    measures=(*HEALING, *CHOOSING),
)


def draw_found(path: Path, lines: Mapping[str, tuple[str, list[dict[str, float]]]]) -> None:
    """What is found of what the base finds, against the cache: rows with their standard errors by label, and how they are
    drawn."""
    from lbdsl.core.pictures import picture

    with picture(path, 2, figsize=(10, 4), sharey=True) as (figure, both):
        for axes, context in zip(both, ("1Ki", "2Ki"), strict=True):
            for label, (style, found) in lines.items():
                x, y, error = ([100 * row[of] for row in found] for of in ("kv", context, f"{context} error"))
                axes.errorbar(x, y, error, fmt=style, capsize=3, label=label)
            axes.axhline(100, color="grey", linewidth=0.8)
            axes.set_xlabel("cache at 8Ki tokens, % of the base's")
            axes.set_title(f"SmolLM2-135M, needle({context})", fontsize=10)
        both[0].set_ylabel("found, % of what the base finds")
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)


def draw(path: Path) -> None:
    """A line a way; stars are healed."""
    done, lines = {key: row["figures"] for key, row in rows_of("heads").items()}, {}
    for way, colour in {"layers": "C0", "heads": "C1", "named": "C2"}.items():
        for healed, style in {"": "o-", "-healed": "*"}.items():
            if found := [done[key] for share in SHARES if (key := f"{way}-{share}{healed}") in done]:
                lines[f"{way}{healed}"] = (colour + style, found)
    draw_found(path, lines)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
