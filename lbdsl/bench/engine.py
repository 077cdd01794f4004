"""What the engines of `bench` that have a Python of their own share: that Python, and the export that they serve."""

from __future__ import annotations

import json
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
from lbdsl.export.base import Subject
from lbdsl.session.exporting import export_artifact
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import ENGINE_NAMES, check_target


@dataclass(frozen=True)
class Gpus:
    """What the process of an engine sees: `count` GPUs called `name` of a `capability`, as in "9.0"; `free`: bytes of
    the one that has the least."""

    name: str
    count: int
    capability: str
    free: int

    @property
    def machine(self) -> dict[str, Any]:
        """What is said of it in files that others may read."""
        return {"name": self.name, "device": "cuda", "gpus": self.count, "capability": self.capability, "cores": None}


_ASK_GPUS = """
import json
from importlib.util import find_spec
gpus = ()
if find_spec("torch") is not None:
    import torch
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
print(json.dumps([
    [torch.cuda.get_device_name(i), list(torch.cuda.get_device_capability(i)), torch.cuda.mem_get_info(i)[0]] for i in gpus
]))
"""


@dataclass(frozen=True)
class Ready:
    """An engine's Python, and the GPUs that it is timed on; on a CPU None."""

    python: Path
    gpus: Gpus | None = None


@dataclass(frozen=True)
class EnginePython:
    """`python` is a Python that has the engine, on its GPUs where it sees some; None for lbdsl's own environment of it, for
    CPUs, which `install` makes. `arguments` are more words for the engine's command line."""

    python: Path | None = None
    install: bool = field(default=False, repr=False)
    arguments: tuple[str, ...] = ()

    def found(self, engine: str, base: OpenModel) -> Ready:
        """Raises LB487 if there is none, if it does not have the engine, and if it is not for the device that is asked."""
        name = ENGINE_NAMES[engine]
        if engine not in ON_GPUS and base.device.type != "cpu":
            raise fail("LB487", f"{name} is timed on a CPU alone so far", help=f"use --device cpu, with a {name} for CPUs")
        if self.python is None and base.device.type != "cpu":
            help = ("use --device cpu", f"or name a Python that has a {name} for GPUs with --engine-python")
            raise fail("LB487", f"lbdsl's own environment of {name} is for CPUs", help=help)
        wanted = OF_ENGINE[engine]
        if self.python is not None:
            asks = f"from importlib.util import find_spec; print(find_spec({wanted.module!r}) is not None)"
            if said_by(self.python, asks) != "True":
                message = f"{self.python} does not have {name} (a module `{wanted.module}`)"
                install = f"name one that has, or none: `lbdsl calibrate MODEL --engine {engine} --install` makes one"
                raise fail("LB487", message, help=install)
        elif not wanted.is_ready and not self.install:
            install = "make it by adding --install (to `bench`, `calibrate` or `verify`)"
            help = (install, f"or name a Python that has {name} with --engine-python")
            raise fail("LB487", f"there is no environment with {name} in {wanted.folder}", help=help)
        base.used(engines_folder())
        if self.python is not None:
            gpus = None if base.options.device == "cpu" or engine not in ON_GPUS else gpus_of(self.python)
            if gpus is None and base.device.type != "cpu":
                help = ("use --device cpu", "or does its torch lack CUDA?")
                raise fail("LB487", f"{self.python} sees no GPU", help=help)
            return Ready(self.python, gpus)
        if wanted.is_ready:
            return Ready(wanted.python)
        with base.progress.stage(f"installing {name}"):
            return Ready(wanted.install())


ON_GPUS = ("vllm",)
"""Engines that are timed on GPUs, too."""


def gpus_of(python: Path) -> Gpus | None:
    """The GPUs that a Python's torch sees; None without any. Raises LB487 if they are of several kinds."""
    said = said_by(python, _ASK_GPUS, gpus=True)
    if not said:
        raise fail("LB487", f"{python} cannot say which GPUs it sees", help="use --device cpu, or see why its torch fails")
    found = json.loads(said.splitlines()[-1])
    if not found:
        return None
    names = {name for name, _, _ in found}
    if len(names) > 1:
        help = "choose some of a kind with CUDA_VISIBLE_DEVICES"
        raise fail("LB487", f"{python} sees GPUs of several kinds: {', '.join(sorted(names))}", help=help)
    (name, (major, minor), _), *_ = found
    return Gpus(name, len(found), f"{major}.{minor}", min(free for _, _, free in found))


def said_by(python: Path, asks: str, *, gpus: bool = False) -> str:
    """What a Python prints that runs a line; `gpus`: where it may see them. Raises LB487 if it cannot be run."""
    environment = clean_environment(gpus=gpus)
    try:
        done = subprocess.run([str(python), "-c", asks], capture_output=True, text=True, check=False, env=environment)
    except OSError as problem:
        raise fail("LB487", f"{python} cannot be run: {problem.strerror}") from None
    return done.stdout.strip()


def export_kind(subject: Subject, engine: str, last: str = "") -> str:
    """The first format by which the engine serves an artifact; `last` is taken if there is no other. Raises the errors of
    the format that is nearest to it."""
    answers = check_target(subject, engine).answers
    kinds = sorted((answer.kind for answer in answers if answer.can), key=lambda kind: kind == last)
    if not answers:
        said = f"no export of this artifact is one that {ENGINE_NAMES[engine]} computes as it was judged"
        raise fail("LB530", said, help="load it as it is saved")
    if not kinds:
        objections = min(([d for d in answer.findings if d.is_error] for answer in answers), key=len)
        raise LbdslError(objections)
    return kinds[0]


def exported(folder: Path, record: Record, kind: str, base: OpenModel, stack: ExitStack) -> Path:
    """The export of the artifact, in a folder that ends with `stack`."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbdsl-bench-")))
    done = export_artifact(folder, kind, output=place / "exported", progress=base.progress, record=record)
    return done.folder


def loaded(
    engine: str,
    command: list[str],
    jobs: tuple[Mapping[str, Any], ...],
    base: OpenModel,
    stack: ExitStack,
    *,
    gpus: bool = False,
    **values: str,
) -> tuple[list[Worker], dict[str, Any]]:
    """Processes with the base and the artifact, which end with `stack`, and what the engine says of itself. `gpus`: whether
    they may see them; `values` are for their environment."""
    workers = []
    for name, job in zip(("the base", "the artifact"), jobs, strict=True):
        with base.progress.stage(f"loading {name} in {ENGINE_NAMES[engine]}"):
            workers.append(stack.enter_context(Worker(engine, command, job, clean_environment(gpus=gpus, **values))))
            said = workers[-1].ready()
    return workers, said


def check_free(bench: OpenModel, needed: int, what: str, help: str, share: float = 1.0, free: int | None = None) -> None:
    """Raise LB486 if so many bytes are more than a share of the memory that is free: `free` bytes, or what is on the
    model's device."""
    from lbdsl.measure.memory import free_bytes

    free = round(share * (free_bytes(bench.device) if free is None else free))
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
