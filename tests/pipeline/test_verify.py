"""`lbdsl verify`: an artifact that is as its record says, and what each way of not being so is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record, write_record
from tests.tiny_model import RECIPE

WINDOWS = "lbr 1\nlayers 0-1 swa(window=16)\nelse keep\neval { tokens = 2Ki; seq = 64 }\n"


@pytest.fixture
def artifact(workplace: Path, made: Callable[..., object]) -> Path:
    shutil.copytree(made(RECIPE).place / "out", workplace / "out")
    return workplace / "out"


def test_what_was_just_made_holds(artifact: Path, lbdsl) -> None:
    done = lbdsl("verify", "out", "--json")
    assert done.code == 0, done.err
    checks = json.loads(done.out)["checks"]
    assert all(check["holds"] for check in checks)
    record = read_record(artifact).unwrap()
    assert checks[0]["said"] == f"{len(record.files)} as they were saved"
    # On as many tokens as when it was made, and the same text.
    (rise,) = (check["said"] for check in checks if check["what"].startswith("loss rise"))
    assert f"{record.evaluation['loss_rise']:+.4f}" in rise
    assert [check["what"] for check in checks if check["what"].startswith("assert")]
    assert "holds" in lbdsl("verify", "out", "--tokens", "512").out


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "LB465", "changed after it was saved"),
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "LB465", "is not in the record"),
        (lambda folder: _recorded(folder, loss_rise=9.0), "LB491", "+9.0000"),
    ],
)
def test_what_does_not_hold_is_named(artifact: Path, lbdsl, harm, code: str, said: str) -> None:
    harm(artifact)
    done = lbdsl("verify", "out")
    assert done.code == 6
    assert f"error[{code}]" in done.err
    assert said in " ".join(done.err.split())


def _recorded(folder: Path, **values: float) -> None:
    """A record that claims another quality."""
    record = read_record(folder).unwrap()
    sources = [{**source, **values} for source in record.evaluation["sources"]]
    write_record(record.model_copy(update={"evaluation": {**record.evaluation, "sources": sources}}), folder)


def test_an_export_computes_the_same_in_transformers(workplace: Path, lbdsl, made) -> None:
    shutil.copytree(made(WINDOWS).place / "out", "out")
    done = lbdsl("verify", "out", "--engine", "transformers", "--json")
    assert done.code == 0, done.err
    check = json.loads(done.out)["checks"][-1]
    assert check["what"] == "native in transformers"
    assert check["holds"]


def test_an_engine_that_computes_something_else_is_found(workplace: Path, lbdsl, made, python: Path) -> None:
    shutil.copytree(made(WINDOWS).place / "out", "out")
    # The program that stands for vLLM thinks all tokens as likely.
    done = lbdsl("verify", "out", "--engine", "vllm", "--engine-python", python, "--device", "cpu")
    assert done.code == 6
    assert "error[LB491]: " in done.err
    assert "in vllm: loss 1.0000 and " in " ".join(done.err.split())
