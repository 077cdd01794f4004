"""One tiny model for all pipeline tests, and the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_model import RECIPE, save_tiny_model


WATCHED = 512


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    """Measurements are the same in all tests that do not look at the cache itself."""
    return new_cache(tmp_path_factory.mktemp("shared") / "cache")


@pytest.fixture(autouse=True)
def _less_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models heal on 2,048 tokens, and would be watched on twice as many, before and after."""
    monkeypatch.setattr("lbdsl.heal.validation.TOKENS", WATCHED)


@pytest.fixture
def workplace(tmp_path: Path, tiny_folder: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `tiny.lbr` and a link `model` to the tiny model."""
    (tmp_path / "tiny.lbr").write_text(RECIPE)
    (tmp_path / "model").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LBDSL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(shared_cache))
    monkeypatch.setenv("LBDSL_TRACEBACK", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def lbdsl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process; gives its exit code and what it wrote."""
    from lbdsl.cli.app import main

    def run(*words: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        written = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, written.out, written.err)

    return run
