"""Speed and memory of healing SmolLM2: the layers before the first change run once for both models, and cached teachers.

Needs `make model`. `prefix-K`: ten layers from layer K on get windows; steps of 2 x 1,024 tokens with and without sharing
the layers before them, by turns in one process. `bands-N`: layers 1 to 16 get windows; steps of one sequence of N tokens,
with windows in bands, and under masks. `roof` is the share of the rate at which this machine
multiplies matrices, for the products that the step needs; `products` and `attention` are shares of a profiled step's time.
`teacher-*`: 16 steps by the command line; `GiB` is the peak of
the whole process, `disk MiB` what `plan` says, `curve apart` the largest difference of a step's loss between the two.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Row, Table
from benchmarks.tables.judged import MODEL
from benchmarks.tables.memory import peaks
from lbdsl.bench.cells import by_turns, paired

if TYPE_CHECKING:
    from lbdsl.session.model import OpenModel

BATCH, SEQ, PAIRS = 2, 1024, 3


def needed_flops(model: Any, first: int) -> float:
    """Multiply-adds of matrix products times two: the base's forward; the student's forward and twice that backward, from
    layer `first` on, adapters left out; both heads, and the gradient of the student's."""
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    layers, head = len(model.model.layers), model.lm_head.weight.numel()
    # The weights themselves are not trained: the backward pass has one product a map, for the inputs' gradient.
    return 2 * BATCH * SEQ * (layers * layer + 2 * (layers - first) * layer + 3 * head)


@dataclass(frozen=True)
class Step:
    """A step of healing SmolLM2 with `layers` windowed at 256 tokens, on `batch` sequences of `seq` tokens."""

    layers: Sequence[int]
    batch: int
    seq: int

    def ways(self, starts: Sequence[int]) -> tuple[list[Callable[[], float]], OpenModel]:
        """Functions that take one step and return its seconds, one for each start: the layers before it run once for both
        models."""
        import torch

        from lbdsl.heal.changed import segments
        from lbdsl.heal.objectives import Distill
        from lbdsl.heal.teacher import LoadedTeacher
        from lbdsl.heal.weights import with_trainable_weights
        from lbdsl.recipe.schema_blocks import Stage
        from lbdsl.session.model import OpenModel
        from tests.layer_changes import swa

        bench = OpenModel(MODEL)
        base, student = bench.base, bench.fresh_copy()
        for layer in self.layers:
            student.set_layer(layer, swa(256).of(student.config.lbdsl["layers"][layer]))
        first = segments(student, base)[0].start
        trained = with_trainable_weights(student, Stage(), range(first, len(student.model.layers)))
        ids = torch.randint(0, 40_000, (self.batch, self.seq), generator=torch.Generator().manual_seed(1))

        def seconds(objective: Any) -> float:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bench.computed.dtype == "bfloat16"):
                loss = objective(ids, torch.arange(self.batch))
            loss.backward()
            return time.perf_counter() - start

        return [partial(seconds, Distill(trained, LoadedTeacher(base), start, 1.0, 0.0)) for start in starts], bench

    def compared(self, quick: Callable[[], float], slow: Callable[[], float]) -> dict[str, float]:
        """Tokens a second of both ways, by turns."""
        found = paired(by_turns(quick, slow, PAIRS, lambda: None), context=0, batch=0, metric="", unit="seconds")
        tokens = self.batch * self.seq
        return {
            "tok/s": tokens / found.base,
            "tok/s without": tokens / found.artifact,
            "ratio": found.ratio,
            "again": found.again or 0.0,
        }


def shares(step: Callable[[], float]) -> dict[str, float]:
    """The shares of one step's time that are spent in matrix products, and in PyTorch's attention."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    kinds = {"products": ("aten::mm", "aten::bmm", "aten::addmm"), "attention": ("aten::_scaled_dot_product",)}
    return {
        kind: sum(time for key, time in spent.items() if key.startswith(names)) / sum(spent.values())
        for kind, names in kinds.items()
    }


def sharing(first: int, _work: Path) -> dict[str, float]:
    from lbdsl.measure.machine import machine_for

    step = Step(range(first, min(first + 10, 30)), BATCH, SEQ)
    (shared, whole), bench = step.ways((first, 0))
    found = step.compared(shared, whole)
    rate = machine_for("cpu", bench.computed, bench.cache_dir).flops
    roof = needed_flops(bench.base, first) * found["tok/s"] / (BATCH * SEQ) / rate
    return {**found, "roof": roof, **shares(shared)}


def in_bands(seq: int, _work: Path) -> dict[str, float]:
    from lbdsl.model.hybrid import lbdsl_window_attention

    step, own = Step(range(1, 17), 1, seq), lbdsl_window_attention.worth_bands
    (take,), _ = step.ways((1,))

    def under_masks() -> float:
        lbdsl_window_attention.worth_bands = lambda *_: False
        try:
            return take()
        finally:
            lbdsl_window_attention.worth_bands = own

    return step.compared(take, under_masks)


def teacher(place: str, work: Path) -> dict[str, float]:
    recipe, own = work / f"teacher-{place}.lbr", work / f"teacher-{place}"
    own.mkdir(parents=True, exist_ok=True)
    rules = "layers 4-7, 17, 25, 26, 29 drop\nlayers 1-3, 8-16, 18-21 swa(window=256)"
    recipe.write_text(f"lbr 1\n{rules}\nheal {{ tokens = 32Ki; seq = 1Ki; teacher = {place} }}\n")
    started = time.perf_counter()
    peaks(own, recipe, "one", own / "peak.txt")
    seconds = time.perf_counter() - started
    record = json.loads((own / "out" / "lbdsl.json").read_text(encoding="utf-8"))
    beside, apart = work / "teacher-loaded" / "out" / "lbdsl.json", {}
    if place != "loaded" and beside.is_file():
        other = json.loads(beside.read_text(encoding="utf-8"))["heal"]["curve"]
        pairs = zip(record["heal"]["curve"], other, strict=True)
        apart = {"curve apart": max(abs(mine[1] - theirs[1]) for mine, theirs in pairs)}
    return apart | {
        "GiB": int((own / "peak.txt").read_text()) / 2**30,
        "seconds": seconds,
        "loss": record["heal"]["curve"][-1][1],
        "disk MiB": record["plan"]["estimate"]["disk_bytes"] / 2**20,
    }


TABLE = Table(
    title="speed and memory of healing SmolLM2",
    columns={
        "tok/s": ".0f",
        "tok/s without": ".0f",
        "ratio": ".2f",
        "again": ".2f",
        "roof": ".2f",
        "products": ".0%",
        "attention": ".0%",
        "GiB": ".2f",
        "seconds": ".0f",
        "loss": ".4f",
        "curve apart": ".1e",
        "disk MiB": ".0f",
    },
    rows=[
        *(Row(f"prefix-{first}", partial(sharing, first)) for first in (0, 10, 20)),
        *(Row(f"bands-{seq}", partial(in_bands, seq)) for seq in (1024, 4096)),
        *(Row(f"teacher-{place}", partial(teacher, place)) for place in ("loaded", "cached")),
    ],
    measures=("lbdsl/heal", "lbdsl/model/hybrid"),
)
