"""One tiny model for all pipeline tests, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbdsl.data import recall
from lbdsl.recipe.schema import Measure
from tests.fake_vllm import H100, fake_python
from tests.tiny_model import RECIPE, save_tiny_model

if TYPE_CHECKING:
    from lbdsl.api.calibrating import Calibrated

MANY, FEW = Measure().recall_questions, 10
"""What is asked of these models where nothing says how many questions."""

WATCHED = 256
"""Tokens that healing is watched on here: these models heal on 2,048."""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Made:
    """The folder that a command ran in, with `model` and what it made, `out`; and what it said."""

    place: Path
    done: Done


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    """Measurements are the same in all tests that do not look at the cache itself."""
    return new_cache(tmp_path_factory.mktemp("shared") / "cache")


def settle(place: Path, tiny_folder: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder one to work in, with a link `model` to the tiny model."""
    if not (place / "model").is_symlink():
        (place / "model").symlink_to(tiny_folder)
    monkeypatch.chdir(place)
    for name in [name for name in os.environ if name.startswith("LBDSL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "no-config"))
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(shared_cache))
    monkeypatch.setenv("LBDSL_TRACEBACK", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


def ask_few(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recall.recall_questions
    monkeypatch.setattr(recall, "recall_questions", lambda *of: whole(*of[:3], FEW if of[3] == MANY else of[3], *of[4:]))


@pytest.fixture(autouse=True)
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_few(monkeypatch)


@pytest.fixture
def workplace(tmp_path: Path, tiny_folder: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `tiny.lbr` and a link `model` to the tiny model."""
    (tmp_path / "tiny.lbr").write_text(RECIPE)
    return settle(tmp_path, tiny_folder, shared_cache, monkeypatch)


def ended(*words: object) -> int:
    """The exit code of a command line in this process."""
    from lbdsl.cli.app import main

    with pytest.raises(SystemExit) as found:
        main([str(word) for word in words])
    code = found.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def lbdsl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process; gives its exit code and what it wrote."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = ended(*words)
        written = capsys.readouterr()
        return Done(code, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def calibrated(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, new_cache: Callable[[Path], Path]
) -> Calibrated:
    """The profile of the tiny model in a vLLM on two H100s, which a program stands for; it is in a cache folder."""
    from lbdsl.api.calibrating import calibrate_model
    from lbdsl.bench.engine import EnginePython
    from lbdsl.bench.engine_vllm import Requests
    from lbdsl.session.options import RunOptions

    place = tmp_path_factory.mktemp("engine")
    asked = Requests(concurrency=(4,), lengths=((32, 8),), pairs=2, engine=EnginePython(fake_python(place)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_LOG", str(place / "log"))
        patch.setenv("FAKE_GPUS", json.dumps([H100, H100]))
        return calibrate_model(tiny_folder, asked, options=RunOptions(cache_dir=new_cache(place / "cache")))


@pytest.fixture
def engine_cache(tmp_path: Path, new_cache: Callable[[Path], Path]) -> Path:
    return new_cache(tmp_path / "cache")


@pytest.fixture
def profile(calibrated: Calibrated, engine_cache: Path) -> Path:
    """The file of the profile, in the test's cache folder."""
    return Path(shutil.copy(calibrated.path, engine_cache))


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that stands for a Python with vLLM."""
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_GPUS", json.dumps([H100, H100]))
    return fake_python(tmp_path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, shared_cache: Path) -> Callable[..., Made]:
    """What `lbdsl apply` makes of the tiny model by a recipe and options, once for all tests: they read it, or change a
    copy."""

    @cache
    def applied(recipe: str, *words: str) -> Made:
        place = tmp_path_factory.mktemp("made")
        (place / "r.lbr").write_text(recipe)
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            settle(place, tiny_folder, shared_cache, patch)
            ask_few(patch)
            code = ended("apply", "r.lbr", "model", "-o", "out", "--yes", *words)
        assert code == 0, err.getvalue()
        return Made(place, Done(code, out.getvalue(), err.getvalue()))

    return applied
