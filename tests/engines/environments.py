"""Environments of engines, each in a venv of its own that is made once and kept: engines pin other versions of torch.

They lie below $LBDSL_ENGINES, else ~/.cache/lbdsl-engines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lbdsl.artifact.record import read_record
from lbdsl.artifact.restore import check_files
from lbdsl.core.diagnostic import LbdslError
from tests.real_model import run_lbdsl


def engines_folder() -> Path:
    """Where environments, and artifacts that take minutes to make, are kept between runs."""
    return Path(os.environ.get("LBDSL_ENGINES") or Path.home() / ".cache" / "lbdsl-engines").resolve()


def engine_python(package: str, version: str, *beside: str, without: tuple[str, ...] = ()) -> Path:
    """The Python of a venv with `package==version` and the packages of `beside`; the first call may take minutes.

    `without` names dependencies that are taken out again, because they do not work there.
    """
    home = engines_folder() / f"{package}-{version}"
    python, stamp = home / "bin" / "python", home / ".ready"
    wanted = " ".join([f"{package}=={version}", *beside])
    if not stamp.is_file() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted.split()], check=True)
        if without:
            subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", *without], check=True)
        stamp.write_text(wanted)
    return python


def kept_artifact(recipe: Path, model: str, *words: str) -> Path:
    """The artifact that a recipe makes of a model, by `apply` with these options; made once (minutes) and kept."""
    folder = engines_folder() / "artifacts" / recipe.stem
    record = read_record(folder).value
    if record is not None and record.plan.recipe.text == recipe.read_text(encoding="utf-8"):
        with suppress(LbdslError):
            check_files(folder, record)
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_lbdsl("apply", str(recipe), model, "-o", str(folder), "--yes", "--force", *words)
    return folder


def clean_environment(**values: str) -> dict[str, str]:
    """This process's environment without what would reach into an engine's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "PYTEST_CURRENT_TEST")
    }
    return {**kept, "HF_HUB_OFFLINE": "1", **values}
