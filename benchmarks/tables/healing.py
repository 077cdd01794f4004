"""Sources, stages and methods of healing on SmolLM2: 8 attentions dropped and 16 windowed at 256 tokens, without sinks.

Needs `make model`; the rows `oracle-*` need WikiText-2's validation text (`wiki.valid.tokens`), whose path is in
LBDSL_WIKITEXT. `closed` is the share of the distance in loss on WikiText between the baseline (200k tokens of pydoc) and
the oracle (200k of the articles of WikiText-2 that are not judged on), both healed before LoRA trained norms, too;
`minutes` are those of healing on this machine.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evaluated import FORMATS, evaluated, increases, made
from benchmarks.prose import essays, news, quotes, write
from benchmarks.table import HOME, Row, Table, once

PLAN = "layers 4-7, 17, 25, 26, 29 drop\nlayers 1-3, 8-16, 18-21 swa(window=256)"

SOURCES = "pydoc", "docs", "self", "pydoc+docs", "pydoc+docs+self"
PROSE = "news+essays", *(f"pydoc+docs+{texts}" for texts in ("news+essays", "self+news+essays", "news+essays+quotes"))
"""English that is not about software, as a stand-in for text from the web (`benchmarks/prose.py`)."""
BEST, SECOND = "3pydoc+2docs+2news+2essays+2quotes", "pydoc+docs+news+essays"
BY = "lora64-1e-3"
STAGES = {
    "distill": "tokens = {tokens}",
    "match+distill": "stage match {{ tokens = {quarter} }}; stage distill {{ tokens = {rest} }}",
}
LORA64 = "method = lora(rank=64, alpha=128); lr = 2e-3; batch = 1"
METHODS = {
    "lora": "method = lora(rank=16); lr = 1e-3; seq = 1Ki",
    "lora64": f"{LORA64}; seq = 1Ki",
    "lora64-512": f"{LORA64}; seq = 512",
    "lora64-1e-3": f"{LORA64.replace('2e-3', '1e-3')}; seq = 1Ki",
    "full": "method = full; lr = 3e-4; batch = 1; seq = 1Ki",
}
"""By `benchmarks/tables/healing_methods.py`; `lora` are the defaults of the first release."""
BASELINE, ORACLE = "pydoc-distill-lora-200k", "oracle-distill-lora-200k"


def data_of(source: str, work: Path) -> str:
    """The value of `data` for the names of texts that `+` joins; `2pydoc` has twice the weight."""
    files = {"oracle": oracle_text, "news": news, "essays": essays, "quotes": quotes}
    found = [re.fullmatch(r"(\d*)(\w+)", part) for part in source.split("+")]
    weights, names = zip(*((int(part[1] or 1), part[2]) for part in found if part), strict=True)
    texts = [
        "self" if name == "self" else f'"{files[name](work).resolve()}"' if name in files else f'"builtin:{name}"'
        for name in names
    ]
    unequal = f", weights={list(weights)}" if len(set(weights)) > 1 else ""
    return texts[0] if len(texts) == 1 else f"mix({', '.join(texts)}{unequal})"


def oracle_text(work: Path) -> Path:
    """The articles of WikiText-2's validation text that `builtin:wikitext` does not have."""
    from lbdsl.data.sources import read_documents

    def make(path: Path) -> None:
        if "LBDSL_WIKITEXT" not in os.environ:
            raise RuntimeError("set LBDSL_WIKITEXT to the path of WikiText-2's wiki.valid.tokens, as a .txt file")
        judged = set(read_documents("builtin:wikitext"))
        rest = [text for text in read_documents(f"wikitext:{os.environ['LBDSL_WIKITEXT']}") if text not in judged]
        write(path, iter(rest))

    return once(work / "oracle.jsonl", make)


@dataclass(frozen=True)
class Healing:
    source: str
    stages: str
    method: str
    thousands: int
    seed: int = 0

    @property
    def key(self) -> str:
        return f"{self.source}-{self.stages}-{self.method}-{self.thousands}k" + (f"-s{self.seed}" if self.seed else "")

    def recipe(self, rules: str, work: Path) -> str:
        """With its texts in the folder `work`."""
        work.mkdir(parents=True, exist_ok=True)
        tokens, quarter = self.thousands * 1000, self.thousands * 250
        split = STAGES[self.stages].format(tokens=tokens, quarter=quarter, rest=tokens - quarter)
        data = data_of(self.source, work)
        return f"{rules}\nheal {{ data = {data}; seed = {self.seed}; {METHODS[self.method]}; {split} }}"


def row(source: str, stages: str, method: str, thousands: int, seed: int = 0) -> Row:
    healing = Healing(source, stages, method, thousands, seed)

    def run(work: Path) -> dict[str, float]:
        key, recipe = healing.key, healing.recipe(PLAN, work)
        heal = json.loads((made(work, key, recipe) / "lbdsl.json").read_text(encoding="utf-8"))["heal"]
        found = increases(evaluated(work, key, recipe)) | {"tokens": heal["tokens"], "minutes": heal["seconds"] / 60}
        ends = [HOME / "results" / "healing" / f"{name}.json" for name in (BASELINE, ORACLE)]
        if all(path.is_file() for path in ends):
            baseline, oracle = (math.log1p(json.loads(path.read_text())["figures"]["wikitext"]) for path in ends)
            found["closed"] = (baseline - math.log1p(found["wikitext"])) / (baseline - oracle)
        return found

    return Row(healing.key, run)


TABLE = Table(
    title="healing of SmolLM2 with 8 attentions dropped and 16 windowed: sources, stages, methods",
    columns=FORMATS | {"closed": ".0%", "tokens": "d", "minutes": ".1f"},
    rows=[
        row("pydoc", "distill", "lora", 200),
        row("oracle", "distill", "lora", 200),
        *(row(source, "distill", "lora64", 50) for source in (*SOURCES, *PROSE)),
        row("pydoc+docs+self", "match+distill", "lora64", 50),
        *(row("pydoc+docs+self", stages, "full", 50) for stages in STAGES),
        *(row(source, "distill", "lora64", 200) for source in ("pydoc+docs", "pydoc+docs+self")),
        row(SECOND, "distill", "lora64", 200),
        row(BEST, "distill", "lora64-512", 200),
        *(row(best, "distill", BY, 200, seed) for best in (SECOND, BEST) for seed in range(3)),
        *(row(BEST, "distill", BY, thousands) for thousands in (50, 100, 400, 1000)),
    ],
)
