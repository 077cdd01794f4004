"""`lbdsl bench` in real engines, on an artifact whose windows halve the cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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


@pytest.fixture
def artifact(smollm2: str, tmp_path: Path) -> Path:
    recipe = tmp_path / "bench-windows.lbr"
    recipe.write_text(RECIPE)
    return kept_artifact(recipe, smollm2, "--no-heal")


@pytest.mark.parametrize("engine", OF_ENGINE)
def test_an_engine_times_both_models(engine: str, artifact: Path) -> None:
    done = run_lbdsl("bench", str(artifact), "--engine", engine, "--install", *ASKED[engine], "--json")
    found = json.loads(done.stdout)
    assert (found["engine"], found["export"] is not None) == (engine, True)
    assert [cell["metric"] for cell in found["cells"]] == METRICS[engine]
    for cell in found["cells"]:
        assert cell["again"] > 0
        assert 0 < cell["low"] <= cell["ratio"] <= cell["high"]
    assert (read_record(artifact).unwrap().bench or {})[engine]["engine_version"] == found["engine_version"]


def _processes(mark: str) -> dict[int, str]:
    """The command lines of processes that have this in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
    return found


def _wait(until, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("engine", "served"), [("llamacpp", ()), ("vllm", ()), ("vllm", ("--served",))])
def test_a_bench_that_is_killed_leaves_no_engine(
    engine: str, served: tuple[str, ...], by: int, artifact: Path, tmp_path: Path
) -> None:
    """While an engine loads or runs: no process, by SIGTERM no file, and the artifact as it was."""
    mark = f"LBDSL_TEST={tmp_path}"
    before = {path: path.read_bytes() for path in artifact.iterdir() if path.suffix in {".json", ".md"}}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = ("bench", str(artifact), "--engine", engine, "--install", *ASKED[engine], *served, "--pairs", "50")
    environment = {**os.environ, "LBDSL_TEST": str(tmp_path), "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-m", "lbdsl", *words], env=environment, stderr=subprocess.PIPE) as bench:
        _wait(lambda: any("/bench/workers/" in words for words in _processes(mark).values()), 300)
        time.sleep(15)
        assert bench.poll() is None
        bench.send_signal(by)
        said = bench.communicate(timeout=60)[1].decode()
    assert bench.returncode == (143 if by == signal.SIGTERM else -by)
    # An engine that is loading notices it when it is done.
    _wait(lambda: not _processes(mark), 5 if by == signal.SIGTERM else 300)
    assert before == {path: path.read_bytes() for path in before}
    if by == signal.SIGTERM:
        assert said.rstrip().endswith("terminated")
        assert not list(temporary.glob("lbdsl-*"))
