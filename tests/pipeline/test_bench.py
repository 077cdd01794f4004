"""`lbdsl bench`: what it measures, where it keeps it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record

RECIPE = "lbr 1\nlayers 1 drop\nlayers 2 swa(window=16)\nelse keep\n"
CELLS = {"prefill": 2, "decode": 4, "latency": 2, "cache": 4, "memory": 4}
SMALL = ("--contexts", "64,128", "--batches", "1,2", "--pairs", "2")


@pytest.fixture
def artifact(workplace: Path, lbdsl) -> Path:
    Path("r.lbr").write_text(RECIPE)
    done = lbdsl("apply", "r.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    return Path("out")


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
        timed = cell["metric"] in ("prefill", "decode", "latency")
        assert (cell["again"] is not None) == timed
    assert Path("bench.png").stat().st_size > 1000
    record = read_record(artifact).unwrap()
    assert record.bench == found
    assert "## Speed" in (artifact / "README.md").read_text()
    assert "x" in lbdsl("show", "out").out.partition("again")[2]
    # The artifact is as whole as before.
    assert lbdsl("bench", "out", *SMALL).code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--contexts", "64Ki"), "LB324"),
        (("--against", "other"), "LB473"),
        (("--contexts", "64", "--batches", "1000000000"), "LB486"),
    ],
)
def test_what_cannot_be_measured_is_refused(artifact: Path, lbdsl, words: tuple[str, ...], code: str) -> None:
    from tests.tiny_model import tiny_llama

    if "other" in words:
        tiny_llama(5).save_pretrained("other")
    before = (artifact / "lbdsl.json").read_text()
    done = lbdsl("bench", "out", *words)
    assert done.code == 1
    assert f"[{code}]" in done.err
    assert (artifact / "lbdsl.json").read_text() == before


def test_an_edited_artifact_is_refused(artifact: Path, lbdsl) -> None:
    (artifact / "config.json").write_text("{}")
    assert "[LB465]" in lbdsl("bench", "out").err
