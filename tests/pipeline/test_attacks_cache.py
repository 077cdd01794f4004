"""A cache folder with something else in the place of its files: that is an error, or measured anew, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.core.cache import LOCK
from lbdsl.core.digest import digest_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.measure import calibrate
from lbdsl.measure.machine import machine_for
from lbdsl.measure.pace import Pace
from lbdsl.model import digest
from lbdsl.model.digest import file_digest
from tests.pipeline.conftest import ask_few, ended, settle

pytestmark = pytest.mark.timeout(30)

RECIPE = """lbr 1
measure { tokens = 256; seq = 64; tries = 4 }
layers 1 width(50%)
choose for layers 2-3 among keep, swa(window=16), drop
  minimizing kl
  subject to kv(8Ki) <= 90%
heal { data = self; tokens = 256; seq = 64 }
"""


def piped(path: Path) -> None:
    os.mkfifo(path)


def linked(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nulls(path: Path) -> None:
    path.write_bytes(bytes(4096))


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


OTHER: tuple[Callable[[Path], None], ...] = (piped, linked, nulls, nested)


@pytest.fixture(autouse=True)
def roughly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine can do is measured in no time."""
    monkeypatch.setattr(calibrate, "_BUDGET", 0.0)
    monkeypatch.setitem(calibrate._COPY_BYTES, "cpu", 2**20)
    monkeypatch.setitem(calibrate._GEMM_SIZE, "cpu", 512)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, new_cache: Callable[[Path], Path]) -> Path:
    """A folder with the cache of a plan."""
    place = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "_FRESH_NS", 0)
        settle(place, tiny_folder, new_cache(place / "cache"), patch)
        ask_few(patch)
        (place / "r.lbr").write_text(RECIPE)
        assert ended("apply", "r.lbr", "model", "-o", "out", "--yes") == 0
    return place


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


@pytest.mark.parametrize("other", OTHER)
def test_another_file_in_the_place_of_any_is_measured_anew(
    filled: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, lbdsl, other: Callable[[Path], None]
) -> None:
    settle(filled, tiny_folder, filled / "changed", monkeypatch)
    shutil.rmtree("changed", ignore_errors=True)
    shutil.copytree("cache", "changed")
    names = files(filled / "changed")
    kinds = {name.parts[0].partition("-")[0] for name in names}
    assert kinds == {"hashes", "machine", "measurements.sqlite", "pace", "statistics", "written"}
    for name in names:
        if name.suffix != ".sqlite":
            (filled / "changed" / name).unlink()
            other(filled / "changed" / name)
    done = lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes", "--force")
    assert done.code == 0, done.err
    # What was used was written again.
    assert not any(path.is_symlink() or path.is_fifo() for path in (filled / "changed" / "statistics").rglob("*"))
    assert lbdsl("cache", "--prune", "all", "--yes").code == 0


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("name", ["measurements.sqlite", "measurements.sqlite-journal", "measurements.sqlite-wal"])
def test_another_file_in_the_place_of_measurements_is_an_error(
    workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, name: str, other: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("LBDSL_CACHE_DIR", "cache")
    Path("cache").mkdir()
    other(Path("cache") / name)
    if name.endswith("-journal"):
        # It is looked for beside what is there.
        Path("cache/measurements.sqlite").touch()
    Path("r.lbr").write_text(RECIPE)
    done = lbdsl("measure", "r.lbr", "model")
    text = other in (nulls, nested) and name != "measurements.sqlite"
    assert (done.code, "LB448" in done.err) == ((0, False) if text else (1, True)), done.err
    assert lbdsl("cache", "--prune", "all", "--yes").code == 0


def test_a_pipe_in_the_place_of_the_lock_is_none(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBDSL_CACHE_DIR", "cache")
    Path("cache").mkdir()
    piped(Path("cache") / LOCK)
    Path("r.lbr").write_text("lbr 1\nlayers 1 drop\n")
    assert lbdsl("plan", "r.lbr", "model").code == 0
    done = lbdsl("cache", "--prune", "all", "--yes")
    assert (done.code, "LB448" in done.err) == (1, True), done.err


JSON = ("null", "[]", "{}", '{"machine": null, "forward": null}', '{"machine": {"flops": null}}', "[" * 100_000, "1", "")


@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_json_of_another_form_is_measured_anew(tmp_path: Path, new_cache: Callable[[Path], Path], text: str) -> None:
    facts = ModelFacts("llama", "LlamaForCausalLM", 0, 0, 0, False, "float32", ())
    cache = new_cache(tmp_path / "cache")
    pace = Pace("0" * 64, facts, "cpu", cache)
    pace.note("forward", 5.0)
    (tmp_path / "x").write_text("x")
    for path in cache.glob("*.json"):
        path.write_text(text)
    assert pace.known("forward") is None
    assert machine_for("cpu", facts, cache).flops > 0
    (cache / "hashes").mkdir()
    path = cache / "hashes" / f"{digest_text(str((tmp_path / 'x').resolve()))}.json"
    path.write_text(text)
    assert file_digest(tmp_path / "x", cache) == digest_text("x")


def test_a_machine_of_nulls_is_measured_anew(tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    facts = ModelFacts("llama", "LlamaForCausalLM", 0, 0, 0, False, "float32", ())
    cache = new_cache(tmp_path / "cache")
    for value in ("null", "0", "-1", "NaN", "Infinity", '"1"', "[]"):
        for path in cache.glob("machine-*.json"):
            content = json.loads(path.read_text())
            fields = ", ".join(f'"{name}": {value}' for name in content["machine"])
            path.write_text(f'{{"machine": {{{fields}}}}}')
        assert machine_for("cpu", facts, cache).flops > 0
