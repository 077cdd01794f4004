"""SmolLM2 in vLLM on this CPU with full KV heads, and with full layers, at equal cache: throughput over the base's.

Needs `make model`, and vLLM in an environment of its own, which the first row makes (`--install`); lbdsl's plug-in lies
beside it. The two plans of a fifth of the heads of `benchmarks/tables/heads.py`, with learned sinks where those have sink
tokens, which vLLM does not have; nothing healed. bfloat16, three pairs: 50 requests of 1,024 tokens that write 256, and 16
of 4,096 that write 128.
"""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.evaluated import made
from benchmarks.table import CHANGING, CHOOSING, ROOT, SERVING, Row, Table, once
from benchmarks.tables.heads import recipe
from benchmarks.tables.judged import lbdsl
from benchmarks.tables.speed import unhealed
from lbdsl.bench.environments import VLLM

LENGTHS = {"1024/256": 50, "4096/128": 16}
"""Tokens read and written, and how many requests at once."""


def rules(way: str, work: Path) -> str:
    """The plan of a fifth of the heads, layer by layer."""
    folder = made(work.parent / "heads", f"{way}-20", recipe(way, 20, healed=False))
    layers = json.loads((folder / "lbdsl.json").read_text(encoding="utf-8"))["plan"]["layers"]
    taken = {each["index"]: each["actions"][0]["action"] for each in layers if each["actions"]}
    return "".join(f"layers {index} {learned(action)}\n" for index, action in taken.items())


def learned(action: dict[str, Any]) -> str:
    """An action of a plan as a recipe says it, with learned sinks."""
    if action["kind"] == "keep":
        return "keep"
    return f"swa({action['window']}, sinks=learned, full_heads={action['full_heads']})"


def plugin_python(work: Path) -> Path:
    """A Python that has vLLM and, beside it, lbdsl's plug-in: vLLM's environment stays as it is."""

    def make(path: Path) -> None:
        words = [str(VLLM.install()), "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*words, str(work / "plugin"), "--upgrade", str(ROOT)], check=True)
        path.write_text(f'#!/bin/sh\nPYTHONPATH="{work / "plugin"}" exec "{VLLM.python}" "$@"\n')
        path.chmod(0o755)

    return once(work / "python", make)


def served(way: str, lengths: str, work: Path) -> dict[str, float]:
    artifact = unhealed(f"{way}-20", rules(way, work), work)
    asked = ("--lengths", lengths, "--concurrency", str(LENGTHS[lengths]), "--pairs", "3", "--dtype", "bfloat16")
    words = ("--engine", "vllm", "--engine-python", str(plugin_python(work)), *asked, "--json")
    (cell,) = json.loads(lbdsl("bench", str(artifact), *words).stdout)["cells"]
    return {
        "base tok/s": cell["base"],
        "over base": cell["ratio"],
        **{name: cell[name] for name in ("low", "high", "again")},
    }


TABLE = Table(
    title="SmolLM2 in vLLM on a CPU: output tokens a second, a fifth of the KV heads full, or of the layers, over the base",
    columns={"base tok/s": ".0f", "over base": ".2f", "low": ".2f", "high": ".2f", "again": ".2f"},
    rows=[
        Row(f"{way}-{lengths.replace('/', 'x')}", partial(served, way, lengths))
        for lengths in LENGTHS
        for way in ("heads", "layers")
    ],
    measures=(*CHANGING, *CHOOSING, *SERVING, "lbdsl/vllm"),
)
