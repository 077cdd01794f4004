"""What runs keep in the cache folder is all known to `lbdsl cache`, and kept as long as they run."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

import lbdsl as api
from lbdsl.session.predicting import pace_of
from tests.tiny_model import RECIPE

NARROW = """lbr 1
measure { data = mix("builtin:pydoc", self); tokens = 256; seq = 64 }
lowest 2 by nll(drop) width(50%)
layers 4 drop(patch=linear)
else keep
"""
CHOSEN = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64; strategy = screen }
choose for layers all among keep, swa(window=8) minimizing kl subject to kv(8Ki) <= 60%
"""


@pytest.fixture
def cache(workplace: Path, new_cache, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = new_cache(workplace / "cache")
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(folder))
    monkeypatch.setenv("LBDSL_ENGINES", str(workplace / "engines"))
    return folder


@pytest.mark.slow
def test_every_file_that_runs_keep_is_of_a_kind(cache: Path, lbdsl, workplace: Path) -> None:
    for name, text in (("narrow", NARROW), ("chosen", CHOSEN), ("tiny", RECIPE)):
        Path(f"{name}.lbr").write_text(text)
        done = lbdsl("plan", f"{name}.lbr", "model")
        assert done.code == 0, done.err
    # A speed is kept of runs that take a second.
    pace_of(api.plan_recipe("tiny.lbr", "model").bench).note("forward", 1e4)
    gc.collect()
    said = json.loads(lbdsl("cache", "--json").out)
    assert said["foreign"] == []
    kinds = {row["kind"] for row in said["kinds"]}
    assert kinds >= {"measurements", "statistics", "screens", "written", "machines"}
    listed = sum(row["bytes"] for row in said["kinds"])
    assert listed == sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert lbdsl("cache", "--prune", "all", "--yes").code == 0
    assert [path.name for path in cache.rglob("*")] == [".lock"]
    assert lbdsl("plan", "tiny.lbr", "model").code == 0


def test_what_a_result_may_still_read_is_kept(cache: Path, lbdsl, workplace: Path) -> None:
    planned = api.plan_recipe("tiny.lbr", "model")
    done = lbdsl("cache", "--prune", "measurements", "--yes")
    assert done.code == 1
    assert "LB448" in done.err
    assert (cache / "measurements.sqlite").exists()
    del planned
    gc.collect()
    assert lbdsl("cache", "--prune", "measurements", "--yes").code == 0
    assert not (cache / "measurements.sqlite").exists()


@pytest.mark.parametrize("key", ["../../../elsewhere", "", "x" * 40])
def test_a_plan_whose_statistics_have_no_place_is_stale(cache: Path, lbdsl, workplace: Path, key: str) -> None:
    Path("narrow.lbr").write_text("lbr 1\nmeasure { tokens = 256; seq = 64 }\nlayers 1 width(50%)\nelse keep\n")
    assert lbdsl("plan", "narrow.lbr", "model", "-o", "x.lbplan").code == 0
    plan = api.load_plan("x.lbplan")
    assert plan.measured_on is not None
    # As another program may write it, with the digest of that.
    api.save_plan(
        plan.model_copy(update={"measured_on": plan.measured_on.model_copy(update={"fingerprint": key})}), "x.lbplan"
    )
    done = lbdsl("apply", "x.lbplan", "-o", "out")
    assert done.code == 3, done.err
    assert "LB347" in done.err
