"""`lbdsl bench` in real engines, on an artifact whose windows halve the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record
from lbdsl.bench.environments import OF_ENGINE
from tests.engines.environments import kept_artifact
from tests.real_model import run_lbdsl

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800), pytest.mark.usefixtures("all_cores")]
RECIPE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 512 }
layers 1-16, 18-21 swa(window=128)
else keep
"""
ASKED = {
    "llamacpp": ("--contexts", "512", "--batches", "1,4", "--pairs", "2"),
    "vllm": ("--lengths", "256/8", "--concurrency", "4", "--pairs", "2"),
}
METRICS = {"llamacpp": ["prefill", "decode", "e2el", "decode"], "vllm": ["throughput"]}


@pytest.mark.parametrize("engine", OF_ENGINE)
def test_an_engine_times_both_models(engine: str, smollm2: str, tmp_path: Path) -> None:
    recipe = tmp_path / "bench-windows.lbr"
    recipe.write_text(RECIPE)
    artifact = kept_artifact(recipe, smollm2, "--no-heal")
    done = run_lbdsl("bench", str(artifact), "--engine", engine, "--install", *ASKED[engine], "--json")
    found = json.loads(done.stdout)
    assert (found["engine"], found["export"] is not None) == (engine, True)
    assert [cell["metric"] for cell in found["cells"]] == METRICS[engine]
    for cell in found["cells"]:
        assert cell["again"] > 0
        assert 0 < cell["low"] <= cell["ratio"] <= cell["high"]
    assert (read_record(artifact).unwrap().bench or {})[engine]["engine_version"] == found["engine_version"]
