"""SIGKILL at any moment leaves nothing or a whole artifact, and `--resume` ends with the weights of an unbroken run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record
from lbdsl.artifact.restore import check_files

# Kills this process at a chosen moment: before or after a call of a function, at its n-th call.
DRIVER = """
import importlib, os, signal, sys
where, when, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
module, _, path = where.partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
real, calls = getattr(owner, name), 0
def killing(*args, **kwargs):
    global calls
    calls += 1
    if when == "before" and calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if when == "after" and calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, killing)
from lbdsl.cli.app import main
main(sys.argv[4:])
"""

APPLY = ("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--quiet")

MOMENTS = {
    "measuring": ("lbdsl.measure.store:Store.put", "after", 9),
    "healing": ("lbdsl.heal.objective:_ChunkedKL.backward", "before", 7),
    "writing a checkpoint": ("transformers.trainer:Trainer._save_optimizer_and_scheduler", "before", 1),
    "merging": ("lbdsl.heal.heal:_merged", "after", 1),
    "saving": ("lbdsl.artifact.save:file_hashes", "before", 1),
    "judging": ("lbdsl.execute.run:judge", "before", 1),
    "recording": ("lbdsl.execute.run:write_record", "after", 1),
    "renaming": ("lbdsl.execute.workdir:WorkFolder.publish", "before", 1),
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lbdsl", *words]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "LBDSL_CACHE_DIR": str(cache), "LBDSL_TRACEBACK": "1", "OMP_NUM_THREADS": "1"}


def nothing_or_whole(folder: Path) -> bool:
    """Whether an artifact is there; if so it must be whole."""
    if not (folder / "out").exists():
        return False
    check_files(folder / "out", read_record(folder / "out").unwrap())
    return True


def finish(folder: Path, cache: Path) -> dict[str, str]:
    done = subprocess.run(
        command(*APPLY, "--resume"), cwd=folder, env=environment(cache), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert nothing_or_whole(folder)
    assert not (folder / "out.lbdsl-work").exists()
    return read_record(folder / "out").unwrap().files


@pytest.fixture(scope="session")
def unbroken(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """Weights of a run that nothing disturbs, and its seconds."""
    from tests.tiny_model import RECIPE

    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "tiny.lbr").write_text(RECIPE)
    (folder / "model").symlink_to(tiny_folder)
    started = time.monotonic()
    done = subprocess.run(
        command(*APPLY), cwd=folder, env=environment(folder / "cache"), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return read_record(folder / "out").unwrap().files, time.monotonic() - started


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at(moment: str, workplace: Path, unbroken: tuple[dict[str, str], float]) -> None:
    where, when, count = MOMENTS[moment]
    cache = workplace / "cache"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, where, when, str(count), *APPLY],
        cwd=workplace,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not nothing_or_whole(workplace)
    assert finish(workplace, cache) == unbroken[0]


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_killed_after_a_share_of_the_run(share: float, workplace: Path, unbroken: tuple[dict[str, str], float]) -> None:
    cache = workplace / "cache"
    process = subprocess.Popen(
        command(*APPLY), cwd=workplace, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=share * unbroken[1])
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    nothing_or_whole(workplace)
    assert finish(workplace, cache) == unbroken[0]


def test_ctrl_c_while_healing_leaves_a_checkpoint_and_says_how_to_go_on(
    workplace: Path, unbroken: tuple[dict[str, str], float]
) -> None:
    cache = workplace / "cache"
    driver = DRIVER.replace("signal.SIGKILL", "signal.SIGINT")
    done = subprocess.run(
        [sys.executable, "-c", driver, "lbdsl.heal.objective:_ChunkedKL.backward", "before", "5", *APPLY],
        cwd=workplace,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 130, done.stderr[-3000:]
    assert "--resume" in done.stderr
    assert list((workplace / "out.lbdsl-work" / "heal").glob("checkpoint-*/lbdsl-complete"))
    refused = subprocess.run(command(*APPLY), cwd=workplace, env=environment(cache), capture_output=True, text=True)
    assert refused.returncode == 1
    assert "LB462" in refused.stderr
    assert finish(workplace, cache) == unbroken[0]
