"""`bench_artifact`: the speed and memory of a saved artifact beside its base model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.artifact.record import Record, read_record, write_record
from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import AnyProgress, Progress
from lbdsl.core.units import plural
from lbdsl.verbs.bench_transformers import Contexts, cells_in_transformers
from lbdsl.verbs.bench_vllm import Requests, cells_in_vllm
from lbdsl.verbs.notebook import NotebookResult
from lbdsl.verbs.options import RunOptions
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.bench.cells import Cell


@dataclass(frozen=True, repr=False)
class Benched(NotebookResult):
    """The cells that were measured, and the machine they were measured on."""

    record: Record
    machine: dict[str, Any]
    cells: tuple[Cell, ...]

    def in_short(self) -> str:
        return f"{plural(len(self.cells), 'cell')} of {self.record.plan.model.name}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `bench --json`."""
        return {"format_version": 1, "machine": self.machine, "cells": [cell.to_json() for cell in self.cells]}


def bench_artifact(
    artifact: str | Path,
    asked: Contexts | Requests | None = None,
    *,
    against: str | Path | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Benched:
    """Time the artifact in folder `artifact` and its base: `Contexts` in transformers, or `Requests` in vLLM. The result is
    kept in the artifact's record and card, in place of that of the same engine.

    `against` is the base model, needed when it is not at the path in the record. Raises LbdslError when the folder is no
    artifact or was edited (LB465, LB466), the base is not the one it was made from (LB473), and what
    `cells_in_transformers` and `cells_in_vllm` raise.
    """
    from lbdsl.artifact.restore import check_files
    from lbdsl.measure.machine import machine_identity

    folder = Path(artifact)
    record = read_record(folder).unwrap()
    check_files(folder, record)
    given = options or RunOptions()
    base = Workbench(
        against or record.plan.model.source, replace(given, dtype=given.dtype or record.plan.model.dtype), progress
    )
    if base.digest != record.plan.model.digest:
        raise fail(
            "LB473",
            f"{base.source.text} is not the model that the artifact was made from",
            help="name the base model with --against",
        )
    if isinstance(asked, Requests):
        cells = cells_in_vllm(base, folder, record, asked)
    else:
        cells = cells_in_transformers(base, folder, record, asked or Contexts())
    found = Benched(record, machine_identity(base.device, base.computed.dtype), tuple(cells))
    _keep(found, folder, base.progress)
    return found


def _keep(found: Benched, folder: Path, progress: Progress) -> None:
    """Write it into the artifact's record and card, beside what other engines gave on this machine."""
    from lbdsl.artifact.card import write_card

    kept, new = found.record.bench, found.to_json()
    if kept is not None and kept["machine"] == found.machine:
        engines = {cell.engine for cell in found.cells}
        new["cells"] = [*(cell for cell in kept["cells"] if cell["engine"] not in engines), *new["cells"]]
    record = found.record.model_copy(update={"bench": new})
    try:
        write_record(record, folder)
        write_card(record, folder)
    except OSError as problem:
        progress.say(f"the result is not kept in the artifact: {folder} cannot be written ({problem.strerror})")
