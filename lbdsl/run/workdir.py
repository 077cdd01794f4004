"""`<out>.lbdsl-work/`: the unfinished work of an `apply`, on the same file system as its output."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, error, fail
from lbdsl.core.files import replace_file, sync_files
from lbdsl.run.output import is_taken, move_aside, work_of

TORCH_SAVE_WORDS = ("inline_container", "PytorchStreamWriter")
"""Words in the RuntimeError that torch.save raises when a write fails, usually because the disk is full."""


MADE = (
    *("lock", "heal", "run.json", "unhealed.json", ".*.json.*.tmp"),
    *(f"{stage}{end}" for stage in ("unpacked", "artifact") for end in ("", ".tmp", ".json")),
)
"""Names in a run's folder."""


class WorkFolder:
    """State of one run, beside its output, at `path` if it is not that of an `apply`. The output path appears only by
    renaming, as in `publish`."""

    def __init__(self, output: Path, path: Path | None = None):
        self.output = output
        self.path = path or work_of(output)
        self.heal = self.path / "heal"
        self.unpacked = self.path / "unpacked"
        self.artifact = self.path / "artifact"
        self.moved_aside: Path | None = None
        self._run = self.path / "run.json"
        self._unhealed = self.path / "unhealed.json"

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.lstat().st_blocks * 512 for path in self.path.rglob("*"))

    @contextmanager
    def opened(self, identity: dict[str, Any], *, resume: bool, force: bool) -> Iterator[None]:
        """Lock the folder for one run with this `identity` (equal for runs that may resume each other).

        Raises LB461 if another process has locked it; LB462 if there is a link in it, or an unfinished run and neither
        `resume` (with the same identity) nor `force` is given. What no run has made is refused, too; with `force` the
        folder is moved aside.
        """
        links = [path for path in (self.path, *self.path.rglob("*")) if path.is_symlink()]
        if links:
            # A run makes none: somebody else made the folder, and what is written through a link may be anywhere.
            raise fail("LB462", f"{links[0]} is a link, which no run has made", help="remove it, or choose another -o")
        if others := self._not_of_a_run():
            if not force:
                raise fail(
                    "LB462",
                    f"{self.path} has {others[0]}, which no run has made",
                    help=("choose another -o", "add --force to move the folder aside"),
                )
            with self._locked(), writing(self.path):
                self.moved_aside = move_aside(self.path)
        with self._locked():
            self._begin(identity, resume, force)
            yield

    def _not_of_a_run(self) -> list[str]:
        """The names in the folder that a run does not leave there."""
        names = sorted(os.listdir(self.path)) if self.path.is_dir() else []
        left = MADE if self._run.is_file() else ("lock", ".run.json.*.tmp")
        return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in left)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a")
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise fail(
                    "LB461",
                    f"another lbdsl is already writing {self.output}",
                    help="wait for it, or choose another folder with -o",
                ) from None
            except OSError as problem:
                message = f"{self.path} cannot be locked for this run alone: {problem.strerror}"
                raise fail("LB463", message, help="choose a folder with -o whose file system has locks") from None
            yield
        finally:
            lock.close()

    def _begin(self, identity: dict[str, Any], resume: bool, force: bool) -> None:
        if self._run.is_file():
            if not resume and not force:
                raise fail(
                    "LB462",
                    f"{self.path} holds an interrupted run",
                    help=("add --resume to continue it", "add --force to discard it"),
                )
            # With --force alone the old run.json is not read: it may be damaged.
            before = _read_json(self._run) if resume else {}
            if before == identity:
                return
            if resume and not force:
                names = ", ".join(sorted(k for k in {*before, *identity} if before.get(k) != identity.get(k)))
                raise fail(
                    "LB462",
                    f"{self.path} holds another run: it differs in {names}",
                    help="repeat the interrupted command, or add --force to discard that run",
                )
        with writing(self.path):
            shutil.rmtree(self.heal, ignore_errors=True)
            for stage in (self.unpacked, self.artifact):
                for folder in (stage, stage.with_suffix(".tmp")):
                    shutil.rmtree(folder, ignore_errors=True)
                _notes(stage).unlink(missing_ok=True)
            self._unhealed.unlink(missing_ok=True)
            write_json(self._run, identity)

    def has_saved(self, identity: dict[str, Any]) -> bool:
        """Whether a run with this `identity` was interrupted after its weights were saved."""
        stages = map(self.saved, (self.unpacked, self.artifact))
        return self._run.is_file() and _read_json(self._run) == identity and any(found is not None for found in stages)

    def saved(self, stage: Path) -> dict[str, Any] | None:
        """The notes stored with the weights in `unpacked` or `artifact`; None if they have not been saved there yet."""
        return _read_json(_notes(stage)) if stage.is_dir() and _notes(stage).is_file() else None

    def unhealed(self) -> list[dict[str, Any]]:
        """The qualities stored by `keep_unhealed`; empty if there are none yet."""
        return _read_json(self._unhealed)["texts"] if self._unhealed.is_file() else []

    def keep_unhealed(self, texts: list[dict[str, Any]]) -> None:
        """Store the quality of the changed model before healing, by text, for a resumed run."""
        with writing(self.path):
            write_json(self._unhealed, {"texts": texts})

    @contextmanager
    def saving(self, stage: Path, notes: dict[str, Any]) -> Iterator[Path]:
        """Context that gives a folder to save into; it becomes `stage` by one rename when the block ends."""
        beside = stage.with_suffix(".tmp")
        with writing(self.path):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            yield beside
            sync_files(beside)
            write_json(_notes(stage), notes)
            beside.rename(stage)

    def publish(self, target: Path, *, replace: bool) -> Path | None:
        """Rename the finished artifact to `target`. An existing `target` is moved, never deleted; returns its new path."""
        with writing(target):
            aside = None
            if is_taken(target):
                if not replace:
                    raise fail(
                        "LB460",
                        f"{target} appeared during this run",
                        help="move it away and run again with --resume",
                    )
                aside = move_aside(target)
            self.artifact.rename(target)
            shutil.rmtree(self.path, ignore_errors=True)
            return aside


def _notes(stage: Path) -> Path:
    return stage.with_suffix(".json")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context that turns a failed write (full disk, no permission, ...) into LB463; safetensors has its own error type."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and not any(word in str(problem) for word in TORCH_SAVE_WORDS):
            raise
        number = getattr(problem, "errno", None)
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            message, help = f"no permission to write {path}", "choose another folder with -o"
        elif number == errno.ENOSPC or "No space left" in str(problem) or isinstance(problem, RuntimeError):
            message, help = f"the disk is full: {path} could not be written", "free space and run again with --resume"
        else:
            message, help = f"{path} could not be written: {problem}", "fix that, then run again with --resume"
        raise LbdslError([error("LB463", message, help=help)]) from problem


def check_room(output: Path, needed_bytes: int) -> None:
    """Raise LB463, before any work, if the output's folder is not writable or has too little disk space."""
    parent = output.parent
    existing = next(folder for folder in (parent, *parent.parents) if os.path.exists(folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise fail("LB463", f"no permission to write {output}", help="choose another folder with -o")
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        from lbdsl.core.units import bytes_text

        raise fail(
            "LB463",
            f"{existing} has {bytes_text(free)} free, and this run may need {bytes_text(needed_bytes)}",
            help="free space, or choose another folder with -o",
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all, and on disk when this returns."""
    replace_file(path, json.dumps(value, indent=1).encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise fail("LB462", f"{path} cannot be read: {problem}", help="add --force to discard the unfinished run") from None
