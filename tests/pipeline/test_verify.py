"""`lbdsl verify`: an artifact that is as its record says, and what each way of not being so is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record, write_record
from lbdsl.recipe.schema import Phase
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
    # On no more tokens than when it was made, of the same text.
    (rise,) = (check["said"] for check in checks if check["what"].startswith("loss rise"))
    recorded = f"{record.evaluation['loss_rise']:+.4f}"
    assert rise.startswith(f"{recorded} ")
    assert f"and {recorded} " in rise
    (gate,) = (check["said"] for check in checks if check["what"].startswith("assert"))
    here, _, there = gate.removesuffix(" in the record").partition(" here and ")
    assert here == there
    assert "holds" in lbdsl("verify", "out", "--tokens", "256").out


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "LB465", "changed after it was saved"),
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "LB465", "is not in the record"),
        (lambda folder: _recorded(folder, loss_rise=9.0), "LB491", "+9.0000"),
        (lambda folder: _decided(folder, 9.0), "LB491", "and 900.00"),
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


def _decided(folder: Path, value: float) -> None:
    """A record in which another value decided the asserts."""
    record = read_record(folder).unwrap()
    asserts = tuple(
        item.model_copy(update={"value": value}) if item.phase is Phase.POST else item for item in record.asserts
    )
    write_record(record.model_copy(update={"asserts": asserts}), folder)


def test_what_is_no_number_now_does_not_hold(artifact: Path, lbdsl) -> None:
    # NaN in the head's matrix, under the hashes that it has now.
    from safetensors.torch import load_file, save_file

    from lbdsl.artifact.contents import file_hashes

    tensors = load_file(artifact / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, artifact / "model.safetensors", metadata={"format": "pt"})
    write_record(read_record(artifact).unwrap().model_copy(update={"files": file_hashes(artifact)}), artifact)
    done = lbdsl("verify", "out")
    assert done.code == 6
    assert "not a number here" in done.err


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
