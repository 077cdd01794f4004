"""Several processes: one healing, one measuring."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lbdsl.measure.store import open_store

APPLY = ("-m", "lbdsl", "apply", "tiny.lbr", "model", "--yes", "--quiet", "-o")
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

DYING = """
import os, signal, sys
from functools import partial
import lbdsl.heal.heal as heal
from transformers.trainer import Trainer
real, calls = Trainer._save_optimizer_and_scheduler, [0]
def save(*args, **kwargs):
    real(*args, **kwargs)
    calls[0] += 1
    if calls[0] == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
Trainer._save_optimizer_and_scheduler = save
heal.heal_model = partial(heal.heal_model, save_seconds=0.0)
from lbdsl.cli.app import main
main(sys.argv[1:])
"""
"""The second process is killed when it comes to the third checkpoint."""

CLAIMING = """
import sys, time
from pathlib import Path
from lbdsl.measure.store import open_store
with open_store(Path(sys.argv[1])) as store, store.claimed("work") as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def fresh(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace, with nothing measured."""
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(workplace / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return workplace


def ran(*words: str, **others: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **others}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)


def weights(folder: str) -> dict:
    (path,) = Path(folder).glob("*.safetensors")
    return load_file(path)


def scores(folder: str) -> dict:
    plan = json.loads((Path(folder) / "lbdsl.json").read_text())["plan"]
    return {"joint": plan["loss"], "layers": [layer["scores"] for layer in plan["layers"]]}


def assert_alike(one: str, other: str) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        assert (weight.float() - right[name].float()).abs().max() < 1e-5, name


def test_two_processes_measure_and_heal_as_one(fresh: Path) -> None:
    alone = ran(*APPLY, "one", LBDSL_CACHE_DIR=str(fresh / "other"))
    assert alone.returncode == 0, alone.stderr
    together = ran(*TOGETHER, "2", *APPLY, "two")
    assert together.returncode == 0, together.stderr
    # Said once.
    assert together.stdout.count("healed   ") == 1
    assert_alike("one", "two")
    assert scores("one") == scores("two")
    curves = [json.loads((Path(name) / "lbdsl.json").read_text())["heal"]["curve"] for name in ("one", "two")]
    assert curves[0] == [[tokens, pytest.approx(loss, abs=1e-4)] for tokens, loss in curves[1]]


@pytest.mark.slow
def test_one_process_dies_and_another_number_of_them_resumes(fresh: Path) -> None:
    unbroken = ran(*APPLY, "one")
    assert unbroken.returncode == 0, unbroken.stderr
    Path("driver.py").write_text(DYING)
    broken = ran(*TOGETHER, "2", "driver.py", *APPLY[2:], "two")
    assert broken.returncode != 0
    assert "internal error" not in broken.stderr
    assert not Path("two").exists()
    assert list(Path("two.lbdsl-work/heal/1-distill").glob("checkpoint-*"))
    resumed = ran(*APPLY, "two", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_alike("one", "two")


def test_an_error_is_said_once(fresh: Path) -> None:
    done = ran(*TOGETHER, "3", *APPLY, "three")
    assert done.returncode != 0
    assert done.stderr.count("LB457") == 1
    assert "internal error" not in done.stderr
    assert not Path("three").exists()


def test_processes_that_do_not_know_of_each_other_share_the_measuring(fresh: Path) -> None:
    plan = [sys.executable, "-m", "lbdsl", "plan", "tiny.lbr", "model", "--json"]
    both = [subprocess.Popen(plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    first, second = (json.loads(output) for output in outputs)
    assert first["loss"] == second["loss"]
    alone = ran("-m", "lbdsl", "plan", "tiny.lbr", "model", "--json", LBDSL_CACHE_DIR=str(fresh / "other"))
    assert json.loads(alone.stdout)["loss"] == first["loss"]


def test_work_that_is_claimed_is_left_until_its_process_ends(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        claiming = [sys.executable, "-c", CLAIMING, str(tmp_path)]
        other = subprocess.Popen(claiming, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with store.claimed("work") as mine, store.claimed("more") as more:
            assert (mine, more) == (False, True)
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
        end, found = time.monotonic() + 10, False
        while not found and time.monotonic() < end:
            with store.claimed("work") as found:
                pass
        assert found


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "3"}, "write `batch = 3` in the heal block"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "FSDP, which lbdsl does not do yet"),
    ],
)
def test_processes_that_cannot_heal_together(
    workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    monkeypatch.setattr("lbdsl.verbs.following.leading", lambda options: nullcontext())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes")
    assert (done.code, "LB457" in done.err, said in done.err) == (1, True, True), done.err
    assert not Path("out").exists()
