"""`bench_artifact`: the speed and memory of a saved artifact beside its base model."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lbdsl.api.notebook import NotebookResult
from lbdsl.artifact.card import write_speed
from lbdsl.artifact.contents import RECORD_FILE
from lbdsl.artifact.record import Record, read_record, write_record
from lbdsl.bench.cells import Measured
from lbdsl.bench.engine_llamacpp import InLlamaCpp
from lbdsl.bench.engine_transformers import InTransformers
from lbdsl.bench.engine_url import AtUrls
from lbdsl.bench.engine_vllm import Requests
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.progress import AnyProgress, Progress
from lbdsl.core.units import plural
from lbdsl.measure.machine import machine_described
from lbdsl.session.model import opened
from lbdsl.session.options import RunOptions


@dataclass(frozen=True, repr=False)
class Benched(NotebookResult):
    """What an engine gave, and the machine it was measured on."""

    record: Record
    machine: dict[str, Any]
    measured: Measured
    diagnostics: Sequence[Diagnostic] = ()

    def in_short(self) -> str:
        return f"{plural(len(self.measured.cells), 'cell')} of {self.record.plan.model.name} in {self.measured.engine}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `bench --json`."""
        one = self.measured
        named = {"engine": one.engine, "engine_version": one.version, "export": one.export, "machine": self.machine}
        return {"format_version": 1, **named, "served": one.served, "cells": [asdict(cell) for cell in one.cells]}


def bench_artifact(
    artifact: str | Path,
    asked: InTransformers | InLlamaCpp | Requests | AtUrls | None = None,
    *,
    against: str | Path | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Benched:
    """Time the artifact in folder `artifact` and its base: `InTransformers` (the default), `InLlamaCpp`, `Requests` in
    vLLM, or `AtUrls`, servers that run already. The result is kept in the record and card of the artifact, what is complete
    of it also when the run is stopped.

    `against` is the base model, needed when it is not at the path in the record, or another one with the same vocabulary:
    that result is not kept. Raises LbdslError when the folder is no artifact or was edited (LB465, LB466), the base is not
    the one it was made from and not named (LB473), and what `measure` of what is asked raises.
    """
    folder = Path(artifact)
    record, base, said = opened(folder, against, options, progress)
    with ExitStack() as stack:
        measured, cells = (asked or InTransformers()).measure(base, folder, record, stack)
        machine = (
            machine_described(base.device, base.computed.dtype) | {"threads": measured.threads} | dict(measured.machine)
        )
        found = Benched(record, machine, measured, said)
        try:
            measured.cells.extend(cells)
        except KeyboardInterrupt:
            base.progress.say(f"stopped after {plural(len(measured.cells), 'cell')}")
            raise
        finally:
            if measured.cells and base.digest == record.plan.model.digest:
                _keep(found, folder, base.progress)
    return found


def _keep(found: Benched, folder: Path, progress: Progress) -> None:
    """Write it into the artifact's record and card, if they are still of what was timed: in place of the engine's earlier
    cells, or among other cells that the same version of the engine gave on the same machine. A server's cells are beside
    those of offline runs."""
    new, timed = found.to_json(), found.record
    name = (
        new["engine"] + ("-served" if new["served"] else "") + ("-url" if new["machine"].get("device", "") is None else "")
    )
    try:
        with _locked(folder / RECORD_FILE):
            record = read_record(folder).value
            if record is None or (record.plan_digest, record.files) != (timed.plan_digest, timed.files):
                progress.say(f"the result is not kept: {folder} holds another artifact than the one that was timed")
                return
            kept = record.bench or {}
            # Servers elsewhere may be others than the last ones.
            earlier = new if name.endswith("-url") else kept.get(name, new)
            if {"served": False, **earlier, "cells": []} == {**new, "cells": []}:
                names = ("metric", "context", "batch", "output")
                cells = {tuple(map(cell.get, names)): cell for cell in (*earlier["cells"], *new["cells"])}
                new["cells"] = sorted(cells.values(), key=lambda cell: cell["context"])
            record = record.model_copy(update={"bench": {**kept, name: new}})
            write_speed(record, folder)
            # Last, for the lock is that of the file which this replaces.
            write_record(record, folder)
    except OSError as problem:
        progress.say(f"the result is not kept in the artifact: {folder} cannot be written ({problem.strerror})")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock of the file at `path`, which those who hold it replace as the last thing they do. Raises OSError."""
    while True:
        # For a lock, some network file systems ask for a file that may be written.
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return
