"""Attentions and blocks dropped from SmolLM2, patched and not, unhealed and healed.

Needs `make model`. Patches are fitted on 8Ki tokens of `builtin:pydoc`, or on 32Ki of `builtin:docs` (wide), and checked on
text that the model writes. Layers are those with the lowest `nll(drop)` and `nll(drop(block))` on `builtin:pydoc`, without
the first two.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases
from benchmarks.table import Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

DROPS = {f"{count}-attentions": ("attention", count) for count in (2, 4, 8, 12)} | {
    f"{count}-blocks": ("block", count) for count in (2, 4, 6)
}
WAYS = {
    "none": ("", "builtin:pydoc", "8Ki"),
    "pydoc": (", patch=linear", "builtin:pydoc", "8Ki"),
    "wide": (", patch=linear", "builtin:docs", "32Ki"),
}
HEALED = ("8-attentions", "4-blocks")
HEALING = 'heal { data = "builtin:pydoc"; tokens = 50k; seq = 1Ki }'


def ranked(work: Path, part: str) -> list[int]:
    """The layers from the third on by the loss without their part, lowest first."""

    def make(path: Path) -> None:
        recipe = path.with_name(f"{part}.lbr")
        recipe.write_text(f"lbr 1\nmeasure {{ tokens = 8Ki; seq = 1Ki }}\nlowest 1 by nll(drop({part})) drop({part})\n")
        scores = json.loads(lbdsl("measure", str(recipe), MODEL, "--json").stdout)["scores"]
        losses = {score["layer"]: score["value"] for score in scores if score["layer"] >= 2}
        path.write_text(json.dumps(sorted(losses, key=lambda layer: losses[layer])))

    return json.loads(once(work / f"{part}.json", make).read_text())


def recipe(work: Path, drops: str, way: str, heal: bool) -> str:
    part, count = DROPS[drops]
    patch, data, tokens = WAYS[way]
    layers = ", ".join(map(str, sorted(ranked(work, part)[:count])))
    measure = f'measure {{ data = "{data}"; tokens = {tokens}; seq = 1Ki }}'
    return f"{measure}\nlayers {layers} drop({part}{patch})\n" + (HEALING if heal else "")


def row(drops: str, way: str, heal: bool) -> Row:
    name = f"{drops}-{way}" + ("-healed" if heal else "")

    def run(work: Path) -> dict[str, float]:
        work.mkdir(parents=True, exist_ok=True)
        return increases(evaluated(work, name, recipe(work, drops, way, heal)))

    return Row(name, run)


TABLE = Table(
    title="attentions and blocks dropped from SmolLM2: perplexity without and with patches",
    columns=FORMATS,
    rows=[row(drops, way, heal) for heal in (False, True) for drops in (HEALED if heal else DROPS) for way in WAYS],
)
