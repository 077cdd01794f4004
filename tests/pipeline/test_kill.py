"""SIGKILL at any moment leaves nothing or a whole artifact, and `--resume` ends with the weights of an unbroken run."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.artifact.contents import check_files
from lbdsl.artifact.record import read_record
from lbdsl.session.exporting import _beside
from tests.clean_process import LBDSL, CleanProcess
from tests.pipeline.conftest import Made
from tests.pipeline.test_export import RECIPE as SMALL
from tests.tiny_model import RECIPE

LESS = "import lbdsl.heal.validation; lbdsl.heal.validation.TOKENS = 512\n"
"""As in the other tests, these models are watched on less text."""

# Kills this process at a chosen moment: before or after a call of a function, at its n-th call.
DRIVER = (
    LESS
    + """
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
)

APPLY = ("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--quiet")

MOMENTS = {
    "measuring": ("lbdsl.measure.store:Store.put", "after", 3),
    "healing": ("lbdsl.heal.losses:_ChunkedKL.backward", "before", 7),
    "writing a checkpoint": ("lbdsl.heal.loop:save_state", "before", 1),
    "merging": ("lbdsl.heal.heal:merged", "after", 1),
    "saving": ("lbdsl.artifact.save:file_hashes", "before", 1),
    "judging": ("lbdsl.run.apply:judge_on", "before", 2),
    "recording": ("lbdsl.run.apply:write_record", "after", 1),
    "renaming": ("lbdsl.run.workdir:WorkFolder.publish", "before", 1),
}
QUICK = ("writing a checkpoint", "renaming")
"""The others are run by `make test-slow`."""


def nothing_or_whole(folder: Path) -> bool:
    """Whether an artifact is there; if so it must be whole."""
    if not (folder / "out").exists():
        return False
    check_files(folder / "out", read_record(folder / "out").unwrap())
    return True


def finish(folder: Path, cache: Path, clean_process: CleanProcess) -> dict[str, str]:
    done = clean_process.run(LESS + LBDSL, *APPLY, "--resume", cwd=folder, LBDSL_CACHE_DIR=cache)
    assert done.returncode == 0, done.stderr[-3000:]
    assert nothing_or_whole(folder)
    assert not (folder / "out.lbdsl-work").exists()
    return read_record(folder / "out").unwrap().files


@pytest.fixture(scope="session")
def unbroken(
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    clean_process: CleanProcess,
    new_cache: Callable[[Path], Path],
) -> dict[str, str]:
    """Weights of a run that nothing disturbs."""

    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "tiny.lbr").write_text(RECIPE)
    (folder / "model").symlink_to(tiny_folder)
    cache = new_cache(folder / "cache")
    done = clean_process.run(LESS + LBDSL, *APPLY, cwd=folder, LBDSL_CACHE_DIR=cache)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_record(folder / "out").unwrap().files


@pytest.fixture
def cache(workplace: Path, new_cache: Callable[[Path], Path]) -> Path:
    return new_cache(workplace / "cache")


@pytest.mark.parametrize(
    "moment", [moment if moment in QUICK else pytest.param(moment, marks=pytest.mark.slow) for moment in MOMENTS]
)
def test_killed_at(
    moment: str, workplace: Path, cache: Path, unbroken: dict[str, str], clean_process: CleanProcess
) -> None:
    done = clean_process.run(DRIVER, *MOMENTS[moment], *APPLY, cwd=workplace, LBDSL_CACHE_DIR=cache)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not nothing_or_whole(workplace)
    assert finish(workplace, cache, clean_process) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize(
    "made", ["cache/measurements.sqlite", "out.lbdsl-work/heal/*/curve.json", "out.lbdsl-work/artifact.json"]
)
def test_killed_from_outside_once_it_has_made_a_file(
    made: str, workplace: Path, cache: Path, unbroken: dict[str, str], clean_process: CleanProcess
) -> None:
    """In measuring, in healing and in judging, at no chosen call."""
    process, started = clean_process.start(LESS + LBDSL, *APPLY, cwd=workplace, LBDSL_CACHE_DIR=cache), False
    while not started and not clean_process.ended(0.002):
        started = any(workplace.glob(made))
    if started:
        os.kill(process, signal.SIGKILL)
    done = clean_process.wait()
    assert done.returncode == -signal.SIGKILL, f"it ended before {made} was seen: {done.stderr[-3000:]}"
    assert not nothing_or_whole(workplace)
    assert finish(workplace, cache, clean_process) == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_5_moe_text", "gpt_oss"])
@pytest.mark.parametrize("moment", ["healing", "judging"])
def test_qwen3_5_and_gpt_oss_killed_at(
    family: str, moment: str, tmp_path: Path, new_cache: Callable[[Path], Path], clean_process: CleanProcess
) -> None:
    from tests.family_cases import family_base
    from tests.tiny_model import byte_tokenizer

    family_base(family, vocab_size=260).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    found = {}
    for name in ("unbroken", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model").symlink_to(tmp_path / "model")
        recipe = re.sub("layers 0 keep.*?else keep", "layers 1 drop\nelse keep", RECIPE, flags=re.DOTALL)
        without = recipe.replace("assert kv(1Ki) <= 80%\n", "")
        assert RECIPE != recipe != without
        (folder / "tiny.lbr").write_text(without)
        cache = new_cache(folder / "cache")
        if name == "killed":
            done = clean_process.run(DRIVER, *MOMENTS[moment], *APPLY, cwd=folder, LBDSL_CACHE_DIR=cache)
            assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
            assert not nothing_or_whole(folder)
        found[name] = finish(folder, cache, clean_process)
    assert found["killed"] == found["unbroken"]


def test_ctrl_c_while_healing_leaves_a_checkpoint_and_says_how_to_go_on(
    workplace: Path, cache: Path, unbroken: dict[str, str], clean_process: CleanProcess
) -> None:
    driver = DRIVER.replace("signal.SIGKILL", "signal.SIGINT")
    where = ("lbdsl.heal.losses:_ChunkedKL.backward", "before", 5)
    done = clean_process.run(driver, *where, *APPLY, cwd=workplace, LBDSL_CACHE_DIR=cache)
    assert done.returncode == 130, done.stderr[-3000:]
    assert "--resume" in done.stderr
    assert list((workplace / "out.lbdsl-work" / "heal").glob("*/checkpoint-*/lbdsl-complete"))
    refused = clean_process.run(LESS + LBDSL, *APPLY, cwd=workplace, LBDSL_CACHE_DIR=cache)
    assert refused.returncode == 1
    assert "LB462" in refused.stderr
    assert finish(workplace, cache, clean_process) == unbroken


@pytest.mark.parametrize("theirs", ["nothing", "a file", "a link", "a name with a number"])
def test_a_killed_export_is_swept_by_the_next_one(
    workplace: Path, made: Callable[..., Made], clean_process: CleanProcess, lbdsl, theirs: str
) -> None:
    """And nothing else is."""
    (workplace / "out").symlink_to(made(SMALL).place / "out")
    words, place = ("export", "out", "--to", "decilm", "-o", "e", "--quiet"), workplace / "e.lbdsl-export"
    driven = "lbdsl.session.exporting:export_card", "before", 1, *words
    done = clean_process.run(DRIVER, *driven, cwd=workplace)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not (workplace / "e").exists()
    assert (place / "artifact" / "config.json").is_file()
    mine = {"a file": place / "mine.txt", "a link": place / "heal"}.get(theirs, workplace / ".e.999999.tmp")
    if theirs == "a link":
        (workplace / "there").write_text("mine")
        mine.symlink_to("../there")
    elif theirs != "nothing":
        mine.write_text("mine")
    again = lbdsl(*words)
    if theirs in ("a file", "a link"):
        assert (again.code, "LB462" in again.err) == (1, True), again.err
    else:
        assert again.code == 0, again.err
        assert not place.exists()
    assert theirs == "nothing" or mine.read_text() == "mine"
    if theirs == "a file":
        again = lbdsl(*words, "--force")
        assert (again.code, "e.lbdsl-export.old" in again.err) == (0, True), again.err
        assert (workplace / "e.lbdsl-export.old" / "mine.txt").read_text() == "mine"


def test_two_exports_do_not_mix(workplace: Path, made: Callable[..., Made], lbdsl) -> None:
    (workplace / "out").symlink_to(made(SMALL).place / "out")
    with _beside(workplace / "e", force=False):
        done = lbdsl("export", "out", "--to", "decilm", "-o", "e")
    assert (done.code, "LB461" in done.err) == (1, True), done.err
