"""One tiny model for all pipeline tests, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.tiny_model import RECIPE, save_tiny_model

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
            code = ended("apply", "r.lbr", "model", "-o", "out", "--yes", *words)
        assert code == 0, err.getvalue()
        return Made(place, Done(code, out.getvalue(), err.getvalue()))

    return applied
