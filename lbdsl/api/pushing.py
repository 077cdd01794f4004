"""`push_artifact`: put an artifact, or an export of it, on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lbdsl.artifact.card import HEALING, NEEDLE
from lbdsl.artifact.contents import CARD, RECORD_FILE, check_files, is_license
from lbdsl.artifact.hub import Upload, upload
from lbdsl.artifact.record import Record
from lbdsl.core.diagnostic import Diagnostic, fail, note, warning
from lbdsl.core.progress import AnyProgress, progress_of
from lbdsl.model.license import License, card_fields, license_of
from lbdsl.model.source import hub_repository
from lbdsl.session.claims import read_artifact
from lbdsl.session.exporting import export_artifact


@dataclass(frozen=True)
class Pushed:
    """What goes to a repository, and what of the folder does not; `url` is of the commit, None before it is there."""

    repository: str
    private: bool
    files: tuple[Upload, ...]
    left: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]
    message: str
    url: str | None = None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The JSON of `push --json`."""
        return {
            "format_version": 1,
            "repository": self.repository,
            "private": self.private,
            "url": self.url,
            "bytes": self.bytes,
            "files": [{"name": file.name, "bytes": file.bytes} for file in self.files],
            "left": list(self.left),
            "notes": [d.to_json() for d in self.diagnostics],
        }


@contextmanager
def to_push(
    artifact: str | Path,
    repository: str,
    kind: str | None = None,
    *,
    private: bool = False,
    progress: AnyProgress | None = None,
) -> Iterator[Pushed]:
    """What `push` would send, without asking the hub for anything but the license of a base that lies there. With `kind` it
    is that export, which is made beside the artifact and removed at the end.

    Raises LbdslError: LB411 for a repository that is no ORGANISATION/NAME, LB465 or LB466 for a folder that is not an
    artifact or was edited, those of `export_artifact`."""
    if hub_repository(repository) != repository:
        raise fail("LB411", f"{repository} is no name of a repository", help="give organisation/name")
    folder, progress = Path(artifact), progress_of(progress)
    record = read_artifact(folder)
    with progress.stage("checking the artifact"):
        shown = check_files(folder, record)
    with ExitStack() as stack:
        found: list[Diagnostic] = [*shown]
        place, names = folder, [*record.files, RECORD_FILE, CARD, *(n for n in (HEALING, NEEDLE) if (folder / n).exists())]
        if kind is not None:
            beside = stack.enter_context(_beside(folder))
            # Named as the repository: the card of an export says how to load it by its folder's name.
            exported = export_artifact(folder, kind, output=Path(beside, repository.partition("/")[2]), progress=progress)
            place, names, found = exported.folder, [file.name for file in exported.files], [*exported.diagnostics]
        elif record.status != "accepted":
            found.append(
                warning("LB507", f"{folder} failed an assert of its recipe", help=f"`lbdsl show {folder}` says which")
            )
        files, model = [Upload(name, _regular(place / name)) for name in sorted(names)], record.plan.model
        license = license_of(model.source, model.revision, model.digest)
        card, licensed = _licensed(place / CARD, license)
        files = [Upload(CARD, card) if file.name == CARD else file for file in files]
        files += [
            Upload(path.name, path.read_bytes())
            for path in license.files
            if path.name not in names and is_license(path.name)
        ]
        left = sorted(str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir())
        found += _before(record, licensed, RECORD_FILE in names)
        what = f"{folder.resolve().name}" + (f", exported as {kind}" if kind else "")
        yield Pushed(
            repository,
            private,
            tuple(files),
            tuple(name for name in left if name not in names),
            tuple(found),
            f"{what}, by lbdsl {record.lbdsl_version}",
        )


def push_artifact(
    artifact: str | Path,
    repository: str,
    kind: str | None = None,
    *,
    private: bool = False,
    progress: AnyProgress | None = None,
) -> Pushed:
    """Push the artifact in folder `artifact`, or its export as `kind`, to `repository` on the hub, in one commit. The
    repository is made if it is not there. Raises LbdslError as `to_push` and `upload` do."""
    with to_push(artifact, repository, kind, private=private, progress=progress) as planned:
        return sent(planned)


def sent(planned: Pushed) -> Pushed:
    """Send what was planned."""
    url = upload(planned.repository, planned.files, planned.message, private=planned.private)
    return replace(planned, url=url)


@contextmanager
def _beside(folder: Path) -> Iterator[str]:
    """A temporary folder on the artifact's file system, where an export links its files. Raises LB463."""
    try:
        made = tempfile.TemporaryDirectory(prefix=".lbdsl-push-", dir=folder.resolve().parent)
    except OSError as problem:
        help = "an export is made beside the artifact: copy it to where files can be written"
        raise fail("LB463", f"nothing can be written beside {folder}: {problem.strerror}", help=help) from None
    with made as place:
        yield place


def _regular(path: Path) -> Path:
    if path.is_symlink() or not path.is_file():
        raise fail("LB465", f"{path} {'is a link' if path.is_symlink() else 'is missing'}: it is not pushed")
    return path


def _licensed(path: Path, license: License) -> tuple[bytes, bool]:
    """The card with the base's license in its front matter, unless it has one of its own; and whether it has one."""
    from huggingface_hub import ModelCard

    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        known = card_fields(text)
    except ValueError as problem:
        raise fail("LB465", f"the first lines of {path} are not YAML: {problem}", help="correct them by hand") from None
    if known.get("license"):
        return text.encode(), True
    if not license.fields:
        return text.encode(), False
    card = ModelCard(text, ignore_metadata_errors=True)
    for name, value in license.fields.items():
        setattr(card.data, name, value)
    return str(card).encode(), True


def _before(record: Record, licensed: bool, with_record: bool) -> Iterator[Diagnostic]:
    if not licensed:
        help = "write `license: ...` into the first lines of its README.md"
        yield warning("LB490", f"what license {record.plan.model.source} has is not known", help=help)
    places = [place for place in (record.plan.model.source, record.plan.recipe.path) if Path(place).is_absolute()]
    if with_record and places:
        yield note("LB490", f"{RECORD_FILE} names files of the machine that made it, such as {places[0]}")
