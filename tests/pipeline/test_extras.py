"""Packages that are extras: what needs one says so before it works, and all else runs without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record
from tests.tiny_model import RECIPE

MEASURED = 'measure { data = "builtin:pydoc"'


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Make imports of a package fail as they do where it is not installed."""

    def take(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return take


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (("plan", "r.lbr", "model"), RECIPE.replace(MEASURED, 'measure { data = "org/set"')),
        (("measure", "r.lbr", "model"), RECIPE.replace(MEASURED, 'measure { data = "org/set"')),
        (("plan", "r.lbr", "model"), RECIPE.replace('eval { data = "builtin:pydoc"', 'eval { data = "stream:org/set"')),
        (
            ("apply", "r.lbr", "model", "--yes"),
            RECIPE.replace('heal { data = "builtin:pydoc"', 'heal { data = mix(self, "org/set")'),
        ),
    ],
)
def test_a_hub_data_set_needs_datasets(workplace: Path, lbdsl, without, words, recipe: str) -> None:
    without("datasets")
    Path("r.lbr").write_text(recipe)
    done = lbdsl(*words)
    assert done.code == 1
    assert "error[LB485]: org/set needs datasets, which is not installed" in done.err.replace("stream:", "")
    assert "help: pip install datasets" in done.err
    assert "measuring" not in done.err
    assert "the model writes" not in done.err


@pytest.mark.parametrize("verb", ["plan", "measure"])
def test_a_parquet_file_needs_pyarrow(workplace: Path, lbdsl, without, verb: str) -> None:
    without("pyarrow")
    Path("own.parquet").write_bytes(b"PAR1")
    Path("r.lbr").write_text(RECIPE.replace(MEASURED, 'measure { data = mix(self, "own.parquet")'))
    done = lbdsl(verb, "r.lbr", "model")
    assert done.code == 1
    assert "error[LB485]: own.parquet needs pyarrow, which is not installed" in done.err
    assert "help: pip install pyarrow" in done.err
    assert "the model writes" not in done.err


@pytest.mark.slow
def test_a_model_is_made_and_judged_without_extras(workplace: Path, lbdsl, without) -> None:
    for package in ("datasets", "pyarrow", "pandas"):
        without(package)
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    assert read_record(Path("out")).unwrap().heal is not None
    assert lbdsl("eval", "out").code == 0
