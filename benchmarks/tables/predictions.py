"""What `lbdsl calibrate` predicts for SmolLM2 beside what `lbdsl bench` measures: errors of the ratio artifact over base.

Needs `make model`, for vLLM and llama.cpp also their environments (`--install`). The engine is calibrated once, before the
first of its rows; none of the plans but `w8a8` is one of the variants that it was calibrated on. `inside`: the share of the
measured ratios that lie within what the prediction says it may be.
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.table import SERVING, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl
from benchmarks.tables.speed import PLANS as TIMED
from benchmarks.tables.speed import unhealed

ASKED = {
    "transformers": ("--contexts", "1Ki,4Ki", "--batches", "1,8"),
    "llamacpp": ("--contexts", "1Ki,4Ki", "--batches", "1,8", "--engine", "llamacpp", "--install"),
    "vllm": ("--lengths", "1024/256,1024/64", "--concurrency", "50", "--engine", "vllm", "--install", "--pairs", "2"),
}
PAIRS = {"transformers": "5", "llamacpp": "5", "vllm": "3"}
METRICS = ("decode", "prefill", "memory", "throughput")
WEIGHTS = "layers all quantize(bits=8, activations=8)\n"
PLANS = {
    **TIMED,
    "window30-128": "layers all swa(window=128)\n",
    "w8a8": WEIGHTS,
    "window19-w8a8": f"{WEIGHTS}layers 0-18 swa(window=256, sinks=learned)\n",
    "heads": "layers 0-22 swa(window=256, full_heads=1)\n",
}
ROWS = {
    "transformers": ("window16", "drop8-window16", "window30-128"),
    "llamacpp": ("window16", "window30-128"),
    "vllm": ("window16", "drop8-window16", "window30-128", "w8a8", "window19-w8a8", "heads"),
}
"""llama.cpp has windows or layers without attention, not both. All layers with windows of 256 are a variant that
`calibrate` times itself. A calibration of vLLM takes an hour, and a row of it a third of one."""


def calibrated(engine: str, work: Path) -> tuple[str, str]:
    """The option that names the cache folder with the profile of the engine."""
    cache = ("--cache-dir", str(work / "cache"))

    def calibrate(path: Path) -> None:
        path.write_text(lbdsl("calibrate", MODEL, *ASKED[engine], *cache, "--json").stdout, encoding="utf-8")

    once(work / f"{engine}.json", calibrate)
    return cache


def errors(engine: str, plan: str, work: Path) -> dict[str, Any]:
    cache = calibrated(engine, work)
    words = (*ASKED[engine], "--pairs", PAIRS[engine], *cache, "--json")
    cells = json.loads(lbdsl("bench", str(unhealed(plan, PLANS[plan], work)), *words).stdout)["cells"]
    found: dict[str, Any] = {}
    for metric in METRICS:
        if any(cell["bound"] or cell["predicted"] is None for cell in cells if cell["metric"] == metric):
            raise RuntimeError(f"the profile does not cover {metric}")
        apart = [abs(cell["predicted"] / cell["ratio"] - 1) for cell in cells if cell["metric"] == metric]
        if apart:
            found |= {metric: statistics.median(apart), f"{metric}, worst": max(apart), f"{metric}, cells": apart}
    shown = [(*cell["between"], cell["ratio"]) for cell in cells if cell["metric"] in METRICS and cell["between"]]
    inside = {"inside": statistics.mean(low <= ratio <= high for low, high, ratio in shown)} if shown else {}
    return found | inside | {"low, high, measured": shown}


TABLE = Table(
    title="errors of predicted ratios",
    columns={f"{metric}{which}": ".1%" for metric in METRICS for which in ("", ", worst")} | {"inside": ".0%"},
    rows=[Row(f"{engine}-{plan}", partial(errors, engine, plan)) for engine in ASKED for plan in ROWS[engine]],
    measures=(*SERVING, "lbdsl/measure/profiles.py"),
)
