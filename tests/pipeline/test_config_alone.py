"""What reads no weights needs none: a folder with config.json alone is a model there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def alone(workplace: Path) -> str:
    Path("alone").mkdir()
    shutil.copy("model/config.json", "alone")
    return "alone"


def test_inspect(alone: str, lbdsl) -> None:
    done, whole = lbdsl("inspect", alone, "--json"), lbdsl("inspect", "model", "--json")
    assert done.code == 0, done.err
    assert "LB401" in done.err
    assert {**json.loads(done.out), "model": ""} == {**json.loads(whole.out), "model": ""}


def test_check(alone: str, lbdsl) -> None:
    assert lbdsl("check", "tiny.lbr", "--model", alone).code == 0
    Path("far.lbr").write_text("layers 40 drop; else keep")
    assert "LB300" in lbdsl("check", "far.lbr", "--model", alone).out


def test_estimate(alone: str, lbdsl) -> None:
    done = lbdsl("plan", "tiny.lbr", alone, "--estimate", "1x24GB", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(lbdsl("plan", "tiny.lbr", "model", "--estimate", "1x24GB", "--json").out)


def test_what_reads_weights_needs_them(alone: str, lbdsl) -> None:
    done = lbdsl("plan", "tiny.lbr", alone)
    assert done.code != 0
    assert "config.json but no weights" in done.err
