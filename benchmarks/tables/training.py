"""Speed and memory of healing SmolLM2: the layers before the first change run once for both models, and cached teachers.

Needs `make model`. `prefix-K`: ten layers from layer K on get windows; steps of 2 x 1,024 tokens with and without sharing
the layers before them, interleaved (A B B A), in one process. `roof` is the share of the rate at which this machine
multiplies matrices, for the products that the step needs. `teacher-*`: 16 steps by the command line.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.table import ROOT, Row, Table
from benchmarks.tables.judged import MODEL

BATCH, SEQ, PAIRS = 2, 1024, 3


def needed_flops(model: Any, first: int) -> float:
    """Multiply-adds of matrix products times two: the base's forward; the student's forward and twice that backward, from
    layer `first` on, adapters left out; both heads, and the gradient of the student's."""
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    layers, head = len(model.model.layers), model.lm_head.weight.numel()
    # The weights themselves are not trained: the backward pass has one product a map, for the inputs' gradient.
    return 2 * BATCH * SEQ * (layers * layer + 2 * (layers - first) * layer + 3 * head)


def sharing(first: int, _work: Path) -> dict[str, float]:
    import torch

    from lbdsl.heal.changed import segments
    from lbdsl.heal.objectives import Distill
    from lbdsl.heal.teacher import LoadedTeacher
    from lbdsl.heal.weights import with_trainable_weights
    from lbdsl.measure.machine import machine_for
    from lbdsl.recipe.schema_blocks import Stage
    from lbdsl.verbs.workbench import Workbench
    from tests.layer_changes import swa

    bench = Workbench(MODEL)
    base, student = bench.base, bench.fresh_copy()
    for layer in range(first, min(first + 10, len(student.model.layers))):
        student.set_layer(layer, swa(256).of(student.config.lbdsl["layers"][layer]))
    assert segments(student, base)[0].start == first
    trained = with_trainable_weights(student, Stage(), range(first, len(student.model.layers)))
    ways = [Distill(trained, LoadedTeacher(base), start, 1.0, 0.0) for start in (first, 0)]
    ids = torch.randint(0, 40_000, (BATCH, SEQ), generator=torch.Generator().manual_seed(1))

    def seconds(objective: Any) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bench.computed.dtype == "bfloat16"):
            loss = objective(ids, torch.arange(BATCH))
        loss.backward()
        return time.perf_counter() - start

    for objective in ways:
        seconds(objective)
    shared: list[float] = []
    whole: list[float] = []
    for pair in range(PAIRS):
        for objective in ways if pair % 2 == 0 else ways[::-1]:
            (shared if objective is ways[0] else whole).append(seconds(objective))
    rate = machine_for("cpu", bench.computed, bench.cache_dir).flops
    took = statistics.median(shared)
    return {
        "tok/s": BATCH * SEQ / took,
        "tok/s without": BATCH * SEQ / statistics.median(whole),
        "ratio": statistics.median(b / a for a, b in zip(shared, whole, strict=True)),
        "roof": needed_flops(base, first) / took / rate,
    }


def teacher(place: str, work: Path) -> dict[str, float]:
    work.mkdir(parents=True, exist_ok=True)
    recipe, out = work / f"{place}.lbr", work / place
    rules = "layers 4-7, 17, 25, 26, 29 drop\nlayers 1-3, 8-16, 18-21 swa(window=256)"
    recipe.write_text(f"lbr 1\n{rules}\nheal {{ tokens = 32Ki; seq = 1Ki; teacher = {place} }}\n")
    words = ("apply", str(recipe), MODEL, "-o", str(out), "--yes", "--force")
    started = time.perf_counter()
    quiet = subprocess.DEVNULL
    run = subprocess.Popen([sys.executable, "-m", "lbdsl", *words], cwd=ROOT, stderr=quiet, stdout=quiet)
    _, status, usage = os.wait4(run.pid, 0)
    if status:
        raise RuntimeError(f"lbdsl {' '.join(words)} failed")
    record = json.loads((out / "lbdsl.json").read_text(encoding="utf-8"))
    return {
        "GiB": usage.ru_maxrss / 2**20,
        "seconds": time.perf_counter() - started,
        "loss": record["heal"]["curve"][-1][1],
        "disk MiB": record["plan"]["estimate"]["disk_bytes"] / 2**20,
    }


TABLE = Table(
    title="speed and memory of healing SmolLM2",
    columns={
        "tok/s": ".0f",
        "tok/s without": ".0f",
        "ratio": ".2f",
        "roof": ".2f",
        "GiB": ".2f",
        "seconds": ".0f",
        "loss": ".4f",
        "disk MiB": ".0f",
    },
    rows=[
        *(Row(f"prefix-{first}", partial(sharing, first)) for first in (0, 10, 20)),
        *(Row(f"teacher-{place}", partial(teacher, place)) for place in ("loaded", "cached")),
    ],
)
