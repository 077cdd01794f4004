"""`recipes/serve-anywhere.lbr` on SmolLM2 in vLLM on this CPU: throughput over the base's, and what the model has lost.

Needs `make model`, and vLLM in an environment of its own, which the first row makes (`--install`). A row is
WINDOW-REQUESTSxLENGTHxWRITTEN: so many requests at once of so many tokens, each of which writes so many, by
`lbdsl bench --engine vllm`, five pairs by turns. 512 is the recipe's own window, 256 is set. `-w8a8` rounds the linear
maps of the healed model to 8 bits, and their inputs. vLLM serves all of them as it is, without the plug-in. What is lost
is judged as the recipe does, on `builtin:wikitext` at 8Ki tokens and by `needle`; the rounded model against the base, too.
`python -m benchmarks.tables.serving PICTURE` draws throughput against both.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from benchmarks.evaluated import increases, judge
from benchmarks.table import CHOOSING, HEALING, HOME, SERVING, Row, Table, once
from benchmarks.tables.judged import MODEL, artifact, lbdsl

RECIPE, OWN, WINDOWS = "serve-anywhere", 512, (512, 256)
ROUNDED = "lbr 1\nlayers all quantize(bits=8, activations=8)\n"
LOADS = (50, 1024, 256), (16, 4096, 128)
"""Requests, tokens of each, and tokens that each writes."""
CONTEXTS = "1Ki", "2Ki"


def key(window: int, rounded: bool, load: tuple[int, ...]) -> str:
    return f"{window}{'-w8a8' if rounded else ''}-{'x'.join(map(str, load))}"


def served(window: int, rounded: bool, load: tuple[int, ...], work: Path) -> dict[str, float]:
    healed = artifact(RECIPE, work.parent / "judged", None if window == OWN else window)
    folder = once(work / f"{window}-w8a8", partial(round_to_8_bits, healed)) if rounded else healed
    found = json.loads((healed / "lbdsl.json").read_text(encoding="utf-8"))["evaluation"]
    if rounded:
        found = json.loads(once(work / f"{window}-w8a8.judged.json", partial(judged_alike, folder, found)).read_text())
    requests, read, written = load
    asked = ("--lengths", f"{read}/{written}", "--concurrency", str(requests))
    (cell,) = json.loads(
        lbdsl("bench", str(folder), "--against", MODEL, "--engine", "vllm", "--install", *asked, "--json").stdout
    )["cells"]
    tasks = {task["name"]: task for task in found["tasks"]}
    recall = {
        f"{context}{what}": value
        for context in CONTEXTS
        for task in [tasks[f"needle({context})"]]
        for what, value in (("", task["recovery"]), (" error", task["stderr"]["recovery"]))
    }
    times = {"base tok/s": cell["base"], "over base": cell["ratio"]} | {
        name: cell[name] for name in ("low", "high", "again")
    }
    return increases({"wikitext": found}) | recall | times


def round_to_8_bits(healed: Path, out: Path) -> None:
    recipe = out.with_name("w8a8.lbr")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(ROUNDED, encoding="utf-8")
    lbdsl("apply", str(recipe), str(healed), "-o", str(out), "--again", "--yes", "--force")


def judged_alike(folder: Path, found: dict[str, int], path: Path) -> None:
    """What `lbdsl eval --json` says of it, on as much text as that of which `found` says it."""
    seq = found["tokens"] // found["sequences"] + 1  # The last token of a sequence has no next one.
    words = ("--against", MODEL, *(word for context in CONTEXTS for word in ("--needle", context)))
    path.write_text(json.dumps(judge(folder, "wikitext", *words, seq=seq, tokens=seq * found["sequences"])))


TABLE = Table(
    title="serve-anywhere in vLLM on a CPU: output tokens a second over the base's, perplexity and recall",
    columns={"wikitext": "+.1%", "wikitext error": ".1%"}
    | {f"{context}{what}": ".0%" for context in CONTEXTS for what in ("", " error")}
    | {"base tok/s": ".0f", "over base": ".2f", "low": ".2f", "high": ".2f", "again": ".2f"},
    rows=[
        Row(key(window, rounded, load), partial(served, window, rounded, load))
        for load in LOADS
        for window in WINDOWS
        for rounded in (False, True)
    ],
    measures=(*HEALING, *CHOOSING, *SERVING, "lbdsl/packing"),
)


def draw(picture: str) -> None:
    """How many times the base's throughput, by load, against the rise of perplexity and what is found at 2Ki tokens."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    what = {"wikitext": "rise of perplexity on WikiText at 8Ki, %", "2Ki": "found in 2Ki tokens, % of what the base finds"}
    for axes, (column, label) in zip(panels, what.items(), strict=True):
        for load, colour in zip(LOADS, ("tab:blue", "tab:orange"), strict=True):
            name = "{} requests of {:,} tokens, {} written".format(*load)
            for window in WINDOWS:
                for rounded in (False, True):
                    path = HOME / "results" / "serving" / f"{key(window, rounded, load)}.json"
                    if not path.is_file():
                        continue
                    found = json.loads(path.read_text(encoding="utf-8"))["figures"]
                    x, y = 100 * found[column], found["over base"]
                    errors = [[y - found["low"]], [found["high"] - y]], [[100 * found[f"{column} error"]]]
                    marker = "s" if rounded else "o"
                    axes.errorbar(x, y, *errors, marker=marker, color=colour, capsize=2, label=name)
                    axes.annotate(f"{window}{', W8A8' if rounded else ''}", (x, y), (5, 5), textcoords="offset points")
                    name = "_"  # One entry in the legend for a load.
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.margins(x=0.25)
        axes.set_xlabel(label)
    panels[0].set_ylabel("output tokens a second, over the base")
    panels[0].legend(fontsize=8)
    figure.suptitle("SmolLM2-135M, serve-anywhere with windows of 512 and 256, in vLLM on a CPU", fontsize=10)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    draw(sys.argv[1])
