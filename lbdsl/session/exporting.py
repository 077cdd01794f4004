"""`export_artifact`: write an artifact in a format that an inference engine reads."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lbdsl.artifact.contents import check_files
from lbdsl.artifact.record import Record, facts_of
from lbdsl.core.diagnostic import Diagnostic, LbdslError, fail, note, warning
from lbdsl.core.nearest import nearest
from lbdsl.core.progress import AnyProgress, progress_of
from lbdsl.export import Subject, exporters
from lbdsl.export.base import subject_of
from lbdsl.export.card import export_card
from lbdsl.families import FAMILIES
from lbdsl.model.config_file import read_json_object
from lbdsl.model.layout import artifact_specs
from lbdsl.run.output import Input, check_free, check_place, is_taken, move_aside
from lbdsl.run.workdir import WorkFolder
from lbdsl.session.claims import read_artifact


@dataclass(frozen=True)
class Written:
    """One file of an export; `linked` when it shares its bytes with another file on the disk."""

    name: str
    bytes: int
    linked: bool


@dataclass(frozen=True)
class Exported:
    """The files of an export, their folder, and the line that loads them."""

    kind: str
    engine: str
    folder: Path
    files: tuple[Written, ...]
    how_to_load: str
    diagnostics: tuple[Diagnostic, ...]

    @property
    def bytes(self) -> int:
        """The total size of all files, including linked ones."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The JSON of `export --json`."""
        return {
            "format_version": 1,
            "kind": self.kind,
            "engine": self.engine,
            "output": str(self.folder),
            "bytes": self.bytes,
            "how_to_load": self.how_to_load,
            "files": [asdict(file) for file in self.files],
            "notes": [d.to_json() for d in self.diagnostics],
        }


def export_artifact(
    artifact: str | Path,
    kind: str,
    *,
    output: str | Path | None = None,
    force: bool = False,
    progress: AnyProgress | None = None,
    record: Record | None = None,
) -> Exported:
    """Write the artifact in folder `artifact` as format `kind`, without loading its weights where the format allows it.

    `output` is the folder to create, by default `<artifact>-<kind>`; an existing one is refused, or moved aside with
    `force`. `record` is the artifact's, where it was read or made already. Raises LbdslError: LB501 for an unknown format,
    LB465 or LB466 for a folder that is not an artifact or was edited, LB460 for an output that exists, and the format's
    errors when it cannot express the model.
    """
    progress = progress_of(progress)
    if kind not in exporters():
        said = f"no export format `{kind}`" if kind else "no export format is given"
        raise fail("LB501", said, help=_formats(kind, Path(artifact)))
    exporter = exporters()[kind]
    folder = Path(artifact)
    record = record or read_artifact(folder)
    target = Path(os.path.abspath(output or f"{os.path.abspath(folder)}-{kind}"))
    base, inputs = Path(record.plan.model.source), [Input("the artifact itself", folder, True)]
    if base.is_absolute() and os.path.exists(base):  # It is no hub id.
        inputs.append(Input("the base model", base, base.is_dir()))
    check_place(target, inputs)
    check_place(_work_of(target), inputs, ", where it is made,")
    check_free(target, force)
    with progress.stage("checking the artifact"):
        shown = check_files(folder, record)
    subject = artifact_subject(folder, record)
    found = [*shown, *exporter.check(subject)]
    errors = [d for d in found if d.is_error]
    if errors:
        others = [f"`{name}`" for name, other in exporters().items() if not any(d.is_error for d in other.check(subject))]
        can = [note("LB508", f"this artifact can be exported to {', '.join(others)}")] if others else []
        raise LbdslError([*errors, *can])
    if record.status != "accepted":
        found.append(warning("LB507", f"{folder} failed an assert of its recipe", help=f"`lbdsl show {folder}` says which"))
    with _beside(target, force) as work:
        place = work.artifact
        if work.moved_aside is not None:
            found.append(note("LB469", f"the previous {work.path} was moved to {work.moved_aside}"))
        with progress.stage(f"writing {kind}") as report:
            exporter.write(folder, subject, place, report)
            if not (place / "README.md").exists():
                loads = exporter.engine == "transformers"
                card = export_card(record, kind, exporter.how_to_load(Path(target.name)), in_transformers=loads)
                (place / "README.md").write_text(card, encoding="utf-8")
        check_free(target, force)  # again: the copy took a while
        if is_taken(target):
            aside = move_aside(target)
            found.append(note("LB469", f"the previous {target} was moved to {aside}"))
        place.rename(target)
    return Exported(kind, exporter.engine, target, _files(target), exporter.how_to_load(target), tuple(found))


def _formats(kind: str, artifact: Path) -> tuple[str, ...]:
    """Help for what is no format: the one that was meant, if only by its engine, and each with the engine that reads it."""
    engine = "".join(filter(str.isalnum, kind.lower()))
    read = [name for name, exporter in exporters().items() if exporter.engine == engine]
    meant = read[0] if len(read) == 1 else nearest(kind, exporters())
    listed = ", ".join(f"`{name}` ({exporter.engine})" for name, exporter in exporters().items())
    example = f"as in `lbdsl export {artifact} --to {meant or 'gguf'}`"
    return (*([f"did you mean `{meant}`?"] if meant else []), f"formats, and what reads them: {listed}", example)


def artifact_subject(folder: Path, record: Record) -> Subject:
    """An artifact as input for exporters: the base's configuration and facts, and the spec of each changed layer."""
    config = read_json_object(folder / "config.json", code="LB465")
    stub = config.pop("lbdsl", None)
    base_type = stub.get("base_model_type") if isinstance(stub, dict) else None
    if not isinstance(base_type, str) or base_type not in FAMILIES:
        raise fail("LB465", f"{folder / 'config.json'} does not say which family the model is of")
    config.pop("auto_map", None)
    config["model_type"] = base_type
    config["architectures"] = [FAMILIES[base_type].architecture]
    facts = facts_of(record)
    return subject_of(config, facts, artifact_specs(stub, facts.layers))


def _work_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.lbdsl-export")


@contextmanager
def _beside(target: Path, force: bool) -> Iterator[WorkFolder]:
    """A folder on the target's file system to write into, always removed at the end, as is what a killed export left there.
    Raises LB461 if another process writes it, LB462 as `WorkFolder.opened` does, LB463 for failed writes."""
    work = WorkFolder(target, _work_of(target))
    try:
        with work.opened({"verb": "export"}, resume=True, force=force):
            try:
                shutil.rmtree(work.artifact, ignore_errors=True)
                work.artifact.mkdir()
                yield work
            finally:
                shutil.rmtree(work.path, ignore_errors=True)
    except OSError as problem:
        known = {errno.ENOSPC: "the disk is full", errno.EROFS: "the file system is read-only"}
        known |= dict.fromkeys((errno.EACCES, errno.EPERM), "no permission")
        message = f"{target} could not be written: {known.get(problem.errno or 0, str(problem))}"
        help = "free space" if problem.errno == errno.ENOSPC else "choose another folder with -o"
        raise fail("LB463", message, help=help) from problem


def _files(folder: Path) -> tuple[Written, ...]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(Written(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_nlink > 1) for path in paths)
