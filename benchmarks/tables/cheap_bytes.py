"""Which bytes of the cache are the cheapest to save: by 8-bit floats, by windows, or by both; equal bytes at 8Ki tokens.

Needs `make model`: SmolLM2. `fp8` keeps keys and values of all layers in 8-bit floats. `windows-N` has windows of 512
tokens with four sink tokens in the layers whose window costs the least recall, so many that N % of the cache are left;
`both-N` has both. Nothing is healed. Judged in sequences of 8Ki of WikiText, and by `needle`.
"""

from __future__ import annotations

from functools import partial

from benchmarks.table import CHOOSING, HEALING, Row, Table
from benchmarks.tables.uniform import REMEMBERED, remembered

WINDOW = "swa(window=512, sinks=4)"
MEASURE = 'measure { data = "builtin:pydoc"; tokens = 8Ki; recall_questions = 40 }\n'


def rules(windowed: int, fp8: bool) -> str:
    windows = f"lowest {windowed} by recall({WINDOW}) {WINDOW}\n" if windowed else ""
    return f"{MEASURE}{windows}{'layers all cache(fp8)' if fp8 else 'else keep'}\n"


ROWS = {
    "fp8": (0, True),
    "windows-50": (16, False),
    "both-25": (16, True),
    "windows-25": (24, False),
    "both-12": (24, True),
    "windows-12": (28, False),
}
"""Windowed layers of 30, and whether the cache is of 8-bit floats."""
TABLE = Table(
    title="what a smaller cache costs, saved by 8-bit floats, by windows, and by both",
    columns=REMEMBERED,
    rows=[
        Row(key, partial(lambda work, key, way: remembered(work, key, rules(*way)), key=key, way=way))
        for key, way in ROWS.items()
    ],
    measures=(*HEALING, *CHOOSING),
)
