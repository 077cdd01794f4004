"""SmolLM2 in vLLM on this CPU: throughput of healed plans over their base, by `lbdsl bench --engine vllm`, and perplexity.

Needs `make model`, and vLLM in an environment of its own, which the first row makes (`--install`). `PLAN-50x256`: 50
requests of 1,024 tokens that write 256, five pairs by turns; of the other requests two pairs. The rows with `-w8a8`
round the linear maps of a healed model to 8 bits, and their inputs. vLLM serves all of them as it is, without the plug-in.
Healed on the best mixture of `benchmarks/tables/healing.py`, in whose folder the healed models are.
`python -m benchmarks.tables.serving PICTURE` draws throughput against perplexity.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.evaluated import FORMATS, TEXTS, evaluated, increases, judge, made
from benchmarks.table import HEALING, HOME, SERVING, Row, Table, once
from benchmarks.tables.healing import BEST, BY, Healing
from benchmarks.tables.judged import MODEL, lbdsl

PLANS = {
    "window30": (256, 100),
    "window30-128": (128, 100),
    "window30-64": (64, 200),
}
"""Windows with learned sinks in all layers: their tokens, and thousands of tokens to heal on."""
ROUNDED = "lbr 1\nlayers all quantize(bits=8, activations=8)\n"
LENGTH, USUAL = 1024, (50, 256)
MORE = (100, 256), (200, 256), (50, 64), (100, 64), (200, 64)
"""Requests, and tokens that each writes."""
BEST_PLAN = "window30-128"


def healed(plan: str, work: Path) -> tuple[Path, str]:
    """The folder and recipe of a healed model, which is called as its plan."""
    (window, thousands), folder = PLANS[plan], work.parent / "healing"
    rules = f"layers all swa(window={window}, sinks=learned)"
    return folder, Healing(BEST, "distill", BY, thousands).recipe(rules, folder)


def served(plan: str, rounded: bool, requests: int, written: int, work: Path) -> dict[str, float]:
    folder, recipe = healed(plan, work)
    artifact, judged = made(folder, plan, recipe), evaluated(folder, plan, recipe)
    if rounded:
        artifact = once(work / f"{plan}-w8a8", partial(round_to_8_bits, artifact))
        judged = {text: judge(artifact, text, "--against", MODEL) for text in TEXTS}
    asked = ("--lengths", f"{LENGTH}/{written}", "--concurrency", str(requests))
    pairs = ("--pairs", "5" if (requests, written) == USUAL else "2")
    words = ("--against", MODEL, "--engine", "vllm", "--install", *asked, *pairs, "--json")
    found = json.loads(lbdsl("bench", str(artifact), *words).stdout)
    (cell,) = found["cells"]
    of_cell = {name: cell[name] for name in ("low", "high", "again")}
    return increases(judged) | {
        "base tok/s": cell["base"],
        "over base": cell["ratio"],
        **of_cell,
    }


def round_to_8_bits(healed: Path, out: Path) -> None:
    recipe = out.with_name("w8a8.lbr")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(ROUNDED, encoding="utf-8")
    lbdsl("apply", str(recipe), str(healed), "-o", str(out), "--again", "--yes", "--force")


def rows() -> Iterator[Row]:
    for plan in PLANS:
        for suffix in ("", "-w8a8"):
            yield Row(f"{plan}{suffix}-50x256", partial(served, plan, bool(suffix), *USUAL))
    for requests, written in MORE:
        yield Row(f"{BEST_PLAN}-{requests}x{written}", partial(served, BEST_PLAN, False, requests, written))


TABLE = Table(
    title="SmolLM2 in vLLM on a CPU: output tokens a second, healed plans over the base",
    columns=FORMATS | {"base tok/s": ".0f", "over base": ".2f", "low": ".2f", "high": ".2f", "again": ".2f"},
    rows=list(rows()),
    measures=(*HEALING, *SERVING, "lbdsl/packing"),
)


def draw(picture: str) -> None:
    """The rows of 50 requests: how many times the base's throughput, against the rise of perplexity on WikiText."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for plan in PLANS:
        for suffix, marker in {"": "o", "-w8a8": "s"}.items():
            path = HOME / "results" / "serving" / f"{plan}{suffix}-50x256.json"
            if path.is_file():
                found = json.loads(path.read_text(encoding="utf-8"))["figures"]
                x, y = 100 * found["wikitext"], found["over base"]
                errors = [[100 * found["wikitext error"]]], [[y - found["low"]], [found["high"] - y]]
                axes.errorbar(x, y, errors[1], errors[0], marker=marker, color="tab:orange" if suffix else "tab:blue")
                axes.annotate(f"{plan}{suffix}", (x, y), (5, 5), textcoords="offset points")
    axes.margins(x=0.3)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("rise of perplexity on WikiText, %")
    axes.set_ylabel("output tokens a second, over the base")
    axes.set_title("SmolLM2-135M in vLLM on a CPU: 50 requests of 1,024 tokens that write 256", fontsize=10)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    draw(sys.argv[1])
