"""What the engines of `bench` that have a Python of their own share: that Python, and the export that they serve."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lbdsl.artifact.record import Record
from lbdsl.bench.environments import OF_ENGINE, clean_environment, engines_folder
from lbdsl.bench.worker import Worker
from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.units import bytes_text
from lbdsl.session.exporting import artifact_subject, export_artifact
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import ENGINE_NAMES, check_target


@dataclass(frozen=True)
class EnginePython:
    """`python` is a Python that has the engine; None for lbdsl's own environment of it, which `install` makes."""

    python: Path | None = None
    install: bool = field(default=False, repr=False)

    def found(self, engine: str, base: OpenModel) -> Path:
        """Raises LB487 if there is none, if it does not have the engine, and if the engine is to run on a device that it is
        not timed on."""
        name = ENGINE_NAMES[engine]
        if base.device.type != "cpu":
            raise fail("LB487", f"{name} is timed on a CPU alone so far", help=f"use --device cpu, with a {name} for CPUs")
        wanted = OF_ENGINE[engine]
        if self.python is not None:
            asks = f"from importlib.util import find_spec; print(find_spec({wanted.module!r}) is not None)"
            if said_by(self.python, asks) != "True":
                message = f"{self.python} does not have {name} (a module `{wanted.module}`)"
                raise fail("LB487", message, help="without --engine-python, --install makes an environment that has it")
        elif not wanted.is_ready and not self.install:
            help = ("make it by adding --install to this command", f"or name a Python that has {name} with --engine-python")
            raise fail("LB487", f"there is no environment with {name} in {wanted.folder}", help=help)
        base.used(engines_folder())
        if self.python is not None or wanted.is_ready:
            return self.python or wanted.python
        with base.progress.stage(f"installing {name}"):
            return wanted.install()


def said_by(python: Path, asks: str) -> str:
    """What a Python prints that runs a line. Raises LB487 if it cannot be run."""
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


def exported(folder: Path, kind: str, base: OpenModel, stack: ExitStack) -> Path:
    """The export of the artifact, in a folder that ends with `stack`."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbdsl-bench-")))
    return export_artifact(folder, kind, output=place / "exported", progress=base.progress).folder


def loaded(
    engine: str, command: list[str], jobs: tuple[Mapping[str, Any], ...], base: OpenModel, stack: ExitStack, **values: str
) -> tuple[list[Worker], dict[str, Any]]:
    """Processes with the base and the artifact, which end with `stack`, and what the engine says of itself. `values` are
    for their environment."""
    workers = []
    for name, job in zip(("the base", "the artifact"), jobs, strict=True):
        with base.progress.stage(f"loading {name} in {ENGINE_NAMES[engine]}"):
            workers.append(stack.enter_context(Worker(engine, command, job, clean_environment(**values))))
            said = workers[-1].ready()
    return workers, said


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
