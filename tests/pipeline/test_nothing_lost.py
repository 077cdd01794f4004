"""Nothing of the user's is overwritten, moved or run unasked: refused with a code, and before any work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.tiny_model import RECIPE


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before the work: anything measured fails the test."""

    def measured(*_: object, **__: object) -> None:
        raise AssertionError("it was measured first")

    monkeypatch.setattr("lbdsl.api.planning._scores", measured)
    monkeypatch.setattr("lbdsl.api.workbench.model_digest", measured)


@pytest.fixture
def copied(workplace: Path, tiny_folder: Path) -> Path:
    """The work place with a model of its own, which may be lost."""
    (workplace / "model").unlink()
    shutil.copytree(tiny_folder, workplace / "model")
    return workplace


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "place", ["tiny.lbr", "model/model.safetensors", "model/config.json", "pipe", "model", "dangling", "no/such/x.lbplan"]
)
def test_plan_never_overwrites_what_is_no_plan(copied: Path, lbdsl, no_measuring: None, place: str) -> None:
    os.mkfifo("pipe")
    Path("dangling").symlink_to("nowhere")
    before = contents(copied)
    done = lbdsl("plan", "tiny.lbr", "model", "-o", place)
    assert done.code in (1, 2), done.err
    assert "LB335" in done.err or place == "model"
    assert contents(copied) == before
    assert Path("dangling").is_symlink()


def test_plan_replaces_a_plan_of_any_format(workplace: Path, lbdsl) -> None:
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan").code == 0
    fields = json.loads(Path("x.lbplan").read_text())
    Path("x.lbplan").write_text(json.dumps({**fields, "format_version": 99}))
    assert lbdsl("plan", "tiny.lbr", "model", "-o", "x.lbplan").code == 0
    assert json.loads(Path("x.lbplan").read_text()) == fields


def test_plan_again_is_what_the_refusal_advises(workplace: Path, lbdsl) -> None:
    (workplace / "x.lbr").write_text("layers 1 drop\n")
    assert lbdsl("apply", "x.lbr", "model", "-o", "out", "--yes").code == 0
    refused = lbdsl("plan", "x.lbr", "out")
    assert refused.code == 1
    assert "--again" in refused.err
    (workplace / "y.lbr").write_text("layers 2 drop\n")
    done = lbdsl("plan", "y.lbr", "out", "--again", "-o", "y.lbplan")
    assert done.code == 0, done.err
    assert lbdsl("apply", "y.lbplan", "-o", "out2").code == 0
