"""Latency of SmolLM2 in vLLM's server on this CPU, by `lbdsl bench --engine vllm --served`, for a plan that is not healed.

Needs `make model`, and vLLM in an environment of its own, which the first row makes (`--install`). Windows of 128 tokens
with learned sinks in all layers, as in `benchmarks/tables/serving.py`. vLLM's own client keeps so many requests of 1,024
tokens open, twice as many in all, each of which writes 128. `ttft`: seconds to the first token; `itl`: between tokens;
artifact over base, in two pairs.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.table import SERVING, Row, Table
from benchmarks.tables.judged import lbdsl
from benchmarks.tables.speed import unhealed

PLAN = "window30-128-sinks"
RULES = "layers all swa(window=128, sinks=learned)\n"
REQUESTS = (1, 8)
METRICS = ("ttft", "itl")


def latency(requests: int, work: Path) -> dict[str, float]:
    asked = ("--lengths", "1024/128", "--concurrency", str(requests), "--pairs", "2", "--served", "--json")
    words = ("--engine", "vllm", "--install", *asked)
    cells = json.loads(lbdsl("bench", str(unhealed(PLAN, RULES, work)), *words).stdout)["cells"]
    by_metric = {cell["metric"]: cell for cell in cells}
    found: dict[str, float] = {}
    for metric in METRICS:
        cell = by_metric[metric]
        names = {"ms": 1000 * cell["base"], "over base": cell["ratio"], "low": cell["low"], "high": cell["high"]}
        found |= {f"{metric} {name}": value for name, value in names.items()}
    return found


TABLE = Table(
    title="SmolLM2 in vLLM's server on a CPU: latency over the base's",
    columns={
        f"{metric} {name}": ".0f" if name == "ms" else ".2f"
        for metric in METRICS
        for name in ("ms", "over base", "low", "high")
    },
    rows=[Row(f"{PLAN}-{requests}", partial(latency, requests)) for requests in REQUESTS],
    measures=SERVING,
)
