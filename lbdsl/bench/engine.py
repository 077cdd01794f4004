"""What the engines of `bench` that have a Python of their own share: that Python, and the export that they serve."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lbdsl.artifact.record import Record
from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.units import bytes_text
from lbdsl.session.exporting import artifact_subject
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import ENGINE_NAMES, check_target

if TYPE_CHECKING:
    from lbdsl.bench.environments import Environment


@dataclass(frozen=True)
class EnginePython:
    """`python` is a Python that has the engine; None for lbdsl's own environment of it, which `install` makes."""

    python: Path | None = None
    install: bool = field(default=False, repr=False)

    def found(self, engine: str, base: OpenModel) -> Path:
        """Raises LB487 if there is none, if it does not have the engine, and if the engine is to run on a device that it is
        not timed on."""
        from lbdsl.bench import environments

        name = ENGINE_NAMES[engine]
        if base.device.type != "cpu":
            raise fail("LB487", f"{name} is timed on a CPU alone so far", help=f"use --device cpu, with a {name} for CPUs")
        wanted: Environment = environments.OF_ENGINE[engine]
        if self.python is not None:
            asks = f"from importlib.util import find_spec; print(find_spec({wanted.module!r}) is not None)"
            if said_by(self.python, asks) != "True":
                message = f"{self.python} does not have {name} (a module `{wanted.module}`)"
                raise fail("LB487", message, help="without --engine-python, --install makes an environment that has it")
        elif not wanted.is_ready and not self.install:
            raise fail(
                "LB487",
                f"there is no environment with {name} in {wanted.folder}",
                help=(
                    "make it by adding --install to this command",
                    f"or name a Python that has {name} with --engine-python",
                ),
            )
        base.used(environments.engines_folder())
        if self.python is not None:
            return self.python
        if wanted.is_ready:
            return wanted.python
        with base.progress.stage(f"installing {name}"):
            return wanted.install()


def said_by(python: Path, asks: str) -> str:
    """What a Python prints that runs a line. Raises LB487 if it cannot be run."""
    from lbdsl.bench.environments import clean_environment

    try:
        done = subprocess.run(
            [str(python), "-c", asks], capture_output=True, text=True, check=False, env=clean_environment()
        )
    except OSError as problem:
        raise fail("LB487", f"{python} cannot be run: {problem.strerror}") from None
    return done.stdout.strip()


def export_kind(folder: Path, record: Record, engine: str, last: str = "") -> str:
    """The first format by which the engine serves the artifact; `last` is taken if there is no other. Raises the errors of
    the format that is nearest to it."""
    answers = check_target(artifact_subject(folder, record), engine).answers
    kinds = sorted((answer.kind for answer in answers if answer.can), key=lambda kind: kind == last)
    if not kinds:
        objections = min(([d for d in answer.findings if d.is_error] for answer in answers), key=len)
        raise LbdslError(objections)
    return kinds[0]


def check_free(bench: OpenModel, needed: int, what: str, help: str, share: float = 1.0) -> None:
    """Raise LB486 if so many bytes are more than a share of the memory that is free."""
    from lbdsl.measure.memory import free_bytes

    free = round(share * free_bytes(bench.device))
    if needed > free:
        part = "" if share == 1.0 else f", {share:.0%} of what is free"
        raise fail("LB486", f"{what} take {bytes_text(needed)}, and {bytes_text(free)} may be taken{part}", help=help)


def served_base(base: OpenModel, place: Path) -> Path:
    """A folder with the base's weights (linked), configuration and tokenizer."""
    folder = place / "base"
    folder.mkdir()
    base.tokenizer.save_pretrained(folder)
    for path in base.weights_folder.iterdir():
        if not (folder / path.name).exists():
            os.symlink(path.resolve(), folder / path.name)
    return folder
