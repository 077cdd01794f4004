"""What tests on real models share: where the models are, all cores, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SMOLLM2, GEMMA3 = "LBDSL_SMOLLM2", "LBDSL_GEMMA3"


def model_folder(variable: str = SMOLLM2) -> str:
    """The model's folder; a test that has none fails."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.fail(f"{variable} names no folder; run `make test-slow` or `make test-engines`")
    return str(Path(folder).resolve())


@pytest.fixture(scope="session")
def smollm2() -> str:
    return model_folder()


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """Unlike tiny models, a real one wants all of them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def run_lbdsl(*words: str, cwd: Path | None = None, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """A command with all cores, in a process of its own; the test fails unless it ends with `expect`."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-m", "lbdsl", *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == expect, (words, done.stderr[-3000:])
    return done
