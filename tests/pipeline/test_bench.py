"""`lbdsl bench`: what it measures, where it keeps it, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lbdsl.api import benching
from lbdsl.artifact.benched import Cell, noise_of
from lbdsl.artifact.card import card_text, write_speed
from lbdsl.artifact.contents import check_files
from lbdsl.artifact.record import Record, read_record
from lbdsl.bench import worker as worker_module
from lbdsl.bench.cells import Measured
from lbdsl.bench.worker import Worker
from lbdsl.core.codes import code_for
from lbdsl.core.diagnostic import Diagnosed, LbdslError
from lbdsl.core.progress import progress_of
from lbdsl.session.model import OpenModel
from tests.pipeline.conftest import Made

RECIPE = "lbr 1\nlayers 1 drop\nlayers 2 swa(window=16)\nelse keep\n"
CELLS = {"prefill": 1, "decode": 2, "e2el": 1, "cache": 2, "memory": 2}
SMALL = ("--contexts", "64", "--batches", "1,2", "--pairs", "2")


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., Made]) -> Path:
    Path("r.lbr").write_text(RECIPE)
    return Path(shutil.copytree(made(RECIPE).place / "out", "out"))


def test_every_cell_is_measured_and_kept(artifact: Path, lbdsl) -> None:
    done = lbdsl("bench", "out", *SMALL, "--json", "-o", "bench.png")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    cells = found["cells"]
    assert {name: sum(cell["metric"] == name for cell in cells) for name in CELLS} == CELLS
    for cell in cells:
        assert cell["base"] > 0
        assert cell["artifact"] > 0
        assert cell["low"] <= cell["ratio"] <= cell["high"]
        if cell["metric"] == "cache":
            assert cell["ratio"] == pytest.approx(cell["predicted"], rel=1e-9)
            assert cell["ratio"] < 1
        timed = cell["metric"] in ("prefill", "decode", "e2el")
        assert (cell["again"] is not None) == timed
    assert Path("bench.png").stat().st_size > 1000
    record = read_record(artifact).unwrap()
    assert record.bench == {"transformers": found}
    assert found["engine_version"]
    assert "host" not in found["machine"]
    assert "## Speed" in (artifact / "README.md").read_text()
    assert "x" in lbdsl("show", "out").out.partition("again")[2]
    for again, said in ((1.04, None), (0.8, "up to 20%")):
        noisy = {**found, "cells": [{**cell, "again": again} for cell in cells]}
        assert (said is None) == (noise_of(noisy) is None)
        assert said is None or said in noise_of(noisy)
    # The artifact is as whole as before.
    check_files(artifact, record)
    # A card that was edited keeps its text.
    card = artifact / "README.md"
    for text in (card.read_text(encoding="utf-8").replace("tags:", "license: mit\ntags:"), "mine\n"):
        card.write_text(text, encoding="utf-8")
        for _ in range(2):
            write_speed(record, artifact)
            assert card.read_text(encoding="utf-8").count("\n| decode") == CELLS["decode"]
            assert _without_speed(card.read_text(encoding="utf-8")) == _without_speed(text)
    card.unlink()
    write_speed(record, artifact)
    assert card.read_text(encoding="utf-8") == card_text(record)


def _without_speed(card: str) -> str:
    before, _, speed = card.partition("## Speed\n")
    return before + "".join(speed.partition("## Recipe")[1:])


@pytest.mark.slow
def test_beside_another_base_that_is_named(artifact: Path, lbdsl) -> None:
    from tests.tiny_model import save_tiny_model

    save_tiny_model(Path("other"), layers=8, num_key_value_heads=4)
    done = lbdsl("bench", "out", "--against", "other", "--contexts", "32", "--batches", "1", "--pairs", "2", "--json")
    assert done.code == 0, done.err
    assert "warning[LB473]" in done.err
    cells = {cell["metric"]: cell for cell in json.loads(done.out)["cells"]}
    assert cells["cache"]["ratio"] == pytest.approx(cells["cache"]["predicted"], rel=1e-9)
    # Of six layers one is gone, and one keeps 16 tokens of 32; each has half as many KV heads as the other's.
    assert cells["cache"]["ratio"] == pytest.approx(4.5 / 16)
    assert read_record(artifact).unwrap().bench is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--contexts", "64Ki"), "LB324"),
        (("--engine", "vllm", "--lengths", "64Ki/1"), "LB324"),
        (("--engine", "vllm", "--lengths", "32/8"), "LB487"),
        (("--engine", "llamacpp", "--contexts", "64"), "LB521"),
        (("--engine", "vllm", "--lengths", "32/8", "--engine-python", "r.lbr"), "LB487"),
        (("--engine", "vllm", "--lengths", "32/8", "--engine-python", "/usr/bin/env"), "LB487"),
        (("--against", "other"), "LB473"),
        (("--contexts", "64", "--batches", "1000000000"), "LB486"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    artifact: Path, lbdsl, words: tuple[str, ...], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LBDSL_ENGINES", str(Path("engines").resolve()))
    from tests.tiny_model import tiny_llama

    if "other" in words:
        tiny_llama(vocab_size=300).save_pretrained("other")
    before = (artifact / "lbdsl.json").read_text()
    done = lbdsl("bench", "out", *words)
    assert done.code == code_for(code).exit_code
    assert f"[{code}]" in done.err
    assert (artifact / "lbdsl.json").read_text() == before


@pytest.mark.slow
def test_a_profile_predicts_the_cells(artifact: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    from lbdsl.api import calibrating

    asked, own = [], calibrating._timed

    def stopped(base, wanted, name, *rest):
        asked.append(name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return own(base, wanted, name, *rest)

    monkeypatch.setattr(calibrating, "_timed", stopped)
    assert lbdsl("calibrate", "model", *SMALL, "--json").code == 130
    done = lbdsl("calibrate", "model", *SMALL, "--json")
    assert done.code == 0, done.err
    assert "variant 4 of 5: smaller MLPs, " in done.err, done.err
    assert "asking" not in done.err
    # What was timed before it was stopped is not timed again, and is forgotten in the end.
    assert asked == [*list(calibrating.VARIANTS)[:3], *list(calibrating.VARIANTS)[2:]]
    assert not list(Path(os.environ["LBDSL_CACHE_DIR"]).glob("calibrating-*"))
    found = json.loads(done.out)
    assert {cell["variant"] for cell in found["cells"]} > {"the base", "windows"}
    assert set(found["errors"]) == {"memory", "prefill", "steps"}
    assert Path(found["profile"]).is_file()
    assert "host" not in found["machine"]
    cells = json.loads(lbdsl("bench", "out", *SMALL, "--json").out)["cells"]
    assert all(cell["predicted"] and not cell["bound"] for cell in cells)
    # Longer than what was measured: the bound again.
    longer = json.loads(lbdsl("bench", "out", "--contexts", "96", "--batches", "1", "--pairs", "2", "--json").out)
    assert {cell["bound"] for cell in longer["cells"] if cell["metric"] in ("prefill", "decode")} == {True}


def test_cells_of_a_server_stand_beside_those_of_offline_runs(artifact: Path) -> None:
    machine = {"name": "a CPU", "dtype": "float32"}
    for served, threads, metric in ((False, 2, "throughput"), (True, None, "ttft")):
        cell = Cell(64, 2, metric, "seconds", base=0.0275, artifact=0.0255, ratio=0.93, low=0.9, high=0.96, output=16)
        given = Measured("vllm", "1", threads, "granite", served, [cell])
        found = benching.Benched(read_record(artifact).unwrap(), {**machine, "threads": threads}, given)
        benching._keep(found, artifact, progress_of(None))
    kept = read_record(artifact).unwrap().bench
    assert {name: one["cells"][0]["metric"] for name, one in kept.items()} == {"vllm": "throughput", "vllm-served": "ttft"}
    card = (artifact / "README.md").read_text()
    assert "in vllm 1, served (export granite) on a CPU" in card
    assert "| 0.0275 | 0.0255 |" in card


@dataclass(frozen=True)
class Engine:
    """Gives one cell at once, then does something else."""

    name: str
    during: Callable[[], object] = lambda: None

    def measure(self, base: OpenModel, folder: Path, record: Record, stack: ExitStack) -> tuple[Measured, Iterator[Cell]]:
        return Measured(self.name, "1", 2), self.cells()

    def cells(self) -> Iterator[Cell]:
        yield Cell(64, 1, "decode", "tokens/s", base=1.0, artifact=2.0, ratio=2.0, low=1.9, high=2.1)
        self.during()


def test_an_artifact_that_was_replaced_meanwhile_keeps_its_own_record(artifact: Path, lbdsl, capsys) -> None:
    def replaced() -> None:
        Path("other.lbr").write_text("lbr 1\nlayers 3 drop\nelse keep\n")
        assert lbdsl("apply", "other.lbr", "model", "-o", "out", "--yes", "--force").code == 0

    found = benching.bench_artifact("out", Engine("slow", replaced), progress=print)
    assert len(found.measured.cells) == 1
    assert "not kept" in capsys.readouterr().out
    record = read_record(artifact).unwrap()
    assert (record.bench, [layer.index for layer in record.plan.changed]) == (None, [3])
    assert "## Speed" not in (artifact / "README.md").read_text()
    check_files(artifact, record)
    # Away altogether.
    benching.bench_artifact("out", Engine("slow", lambda: artifact.rename("moved")), progress=print)
    assert "not kept" in capsys.readouterr().out
    assert not artifact.exists()


def test_results_of_benches_that_run_at_once_are_all_kept(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benching.bench_artifact("out", Engine("slow", lambda: benching.bench_artifact("out", Engine("quick"))))
    assert set(read_record(artifact).unwrap().bench or {}) == {"slow", "quick"}
    own, names = benching.read_record, ["a", "b", "c"]

    def slowly(folder: Path) -> Diagnosed[Record]:
        found = own(folder)
        time.sleep(0.2)
        return found

    # All have read it before the first one writes.
    monkeypatch.setattr(benching, "read_record", slowly)
    together = threading.Barrier(len(names))
    threads = [threading.Thread(target=benching.bench_artifact, args=("out", Engine(n, together.wait))) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench = read_record(artifact).unwrap().bench or {}
    assert set(bench) == {"slow", "quick", *names}
    card = (artifact / "README.md").read_text()
    assert all(f"in {name} 1" in card for name in bench)


def test_a_kill_ends_as_ctrl_c_does(lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(benching, "bench_artifact", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    done = lbdsl("bench", "out")
    assert (done.code, done.err.strip()) == (143, "terminated")
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_edited_artifact_is_refused(artifact: Path, lbdsl) -> None:
    (artifact / "config.json").write_text("{}")
    assert "[LB465]" in lbdsl("bench", "out").err


@pytest.mark.parametrize(
    "words",
    [
        ("--engine", "vllm", "--contexts", "64"),
        ("--install",),
        ("--engine", "vllm", "--lengths", "64"),
        ("--batch", "2"),
        ("-o", "bench.pdf"),
        ("-o", "none/b.png"),
    ],
)
def test_options_of_another_engine_are_wrong_usage(artifact: Path, lbdsl, words: tuple[str, ...]) -> None:
    assert lbdsl("bench", "out", *words).code == 2


SAYS = """
import json, os, sys
answers = os.fdopen(int(sys.argv[2]), "w")
print(json.dumps({"heard": json.loads(sys.argv[1])}), file=answers, flush=True)
for line in sys.stdin:
    if "fail" in line:
        sys.exit("ValueError: no room for the cache")
    if "say" in line:
        print(json.dumps({"failed": "the server ended"}), file=answers, flush=True)
    if "say" in line or "kill" in line:
        os.kill(os.getpid(), 9)
    print(json.dumps({"seconds": 2.0, "pid": os.getpid()}), file=answers, flush=True)
"""


def test_a_worker_answers_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "says.py"
    script.write_text(SAYS)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Worker("engine", [sys.executable, str(script)], {"model": "m"}, os.environ) as worker:
        assert worker.ready() == {"heard": {"model": "m"}}
        answer = worker.ask({"requests": 1})
        assert answer["seconds"] == 2.0
    with pytest.raises(ProcessLookupError):
        os.kill(answer["pid"], 0)
    assert not list(tmp_path.glob("*.log"))


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends itself and all that it started by the signal that the system sends when there is no memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    without_packages = [sys.executable, "-I", "-S", str(Path(worker_module.__file__).parent / "workers" / "vllm_served.py")]
    missing = pytest.raises(LbdslError, match=r"LB488.*vLLM failed: No module named 'vllm'")
    with Worker("vLLM", without_packages, {}, os.environ) as worker, missing:
        worker.ready()


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"fail": 1}, r"LB488.*engine failed.*no room for the cache"),
        ({"kill": 1}, r"LB486.*the system ended engine"),
        ({"say": 1}, r"LB488.*engine failed: the server ended"),
    ],
)
def test_a_worker_that_ends_says_why(job: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = tmp_path / "says.py"
    script.write_text(SAYS)
    command = [sys.executable, str(script)]
    with Worker("engine", command, {}, os.environ) as worker:
        worker.ready()
        with pytest.raises(LbdslError, match=said):
            worker.ask(job)
    assert len(list(tmp_path.glob("*.log"))) == 1
    with pytest.raises(LbdslError, match=r"LB487.*cannot be run: No such file"):
        Worker("engine", [str(tmp_path / "none")], {}, {})


def test_the_interval_holds_the_median_and_narrows() -> None:
    from lbdsl.bench.cells import Pair, by_turns, paired

    names = {"context": 1, "batch": 1, "metric": "m", "unit": "seconds"}
    few = paired([Pair(1, 2 + 0.1 * k, 0.98 if k else None) for k in range(5)], **names)
    assert (few.ratio, few.again) == (pytest.approx(2.2), pytest.approx(1 / 0.98))
    assert paired([Pair(1, 2, 1.6, base_begins=False)], **names).again == pytest.approx(2 / 1.6)
    assert 2 <= few.low < few.ratio < few.high <= 2.4
    many = paired([Pair(1, 2 + 0.1 * (k % 5)) for k in range(100)], **names)
    assert many.high - many.low < few.high - few.low
    assert many.again is None
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    pairs = by_turns(lambda: run("base"), lambda: run("artifact"), 3, lambda: None)
    assert order == ["artifact", "base", "base", "artifact", "artifact", "base", "base", "artifact"]
    assert pairs == [Pair(3, 4), Pair(6, 5, 4, base_begins=False), Pair(7, 8, 6)]
    both = pairs[1].each(lambda read, write: read + 10 * write, pairs[1])
    assert both == Pair(66, 55, 44, base_begins=False)
