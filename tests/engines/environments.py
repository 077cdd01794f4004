"""Artifacts of engine tests, which take minutes to make and are kept below `engines_folder`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lbdsl.artifact.contents import check_files
from lbdsl.artifact.record import read_record
from lbdsl.bench.environments import engines_folder
from lbdsl.core.diagnostic import LbdslError
from tests.real_model import run_lbdsl


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
