"""`<out>.lbdsl-work/`: what an `apply` has done so far, on the file system of its output."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, error, fail
from lbdsl.run.output import free_name, is_taken

TORCH_SAVE_WORDS = ("inline_container", "PytorchStreamWriter")
"""torch.save raises a bare RuntimeError when a write fails, most often for want of space; this is how it names itself."""


class WorkFolder:
    """State of one run beside its output. Nothing appears under the output's name before `publish`, which renames."""

    def __init__(self, output: Path):
        self.output = output
        self.path = output.with_name(output.name + ".lbdsl-work")
        self.heal = self.path / "heal"
        self.artifact = self.path / "artifact"
        self._run = self.path / "run.json"
        self._saved = self.path / "saved.json"
        self._unhealed = self.path / "unhealed.json"

    @contextmanager
    def opened(self, identity: dict[str, Any], *, resume: bool, force: bool) -> Iterator[None]:
        """Hold the folder for one run of `identity` (what makes two runs the same run).

        LB461 when another process holds it; LB462 when it has an unfinished run and neither `resume` (of the same
        run) nor `force` was asked for.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("w")
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise fail(
                    "LB461",
                    f"another lbdsl is already writing {self.output}",
                    help="wait for it, or choose another folder with -o",
                ) from None
            self._begin(identity, resume, force)
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
            # With --force alone nothing of it is looked at: it may be what is broken.
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
            for leftover in (self.heal, self.artifact, self.artifact.with_suffix(".tmp")):
                shutil.rmtree(leftover, ignore_errors=True)
            for file in (self._saved, self._unhealed):
                file.unlink(missing_ok=True)
            write_json(self._run, identity)

    def has_saved(self, identity: dict[str, Any]) -> bool:
        """Whether a run of this `identity` was cut off after its weights were saved."""
        return (
            self.artifact.is_dir() and self._saved.is_file() and self._run.is_file() and _read_json(self._run) == identity
        )

    def saved(self) -> dict[str, Any] | None:
        """What was noted when the weights were saved, or None when that has not happened yet."""
        return _read_json(self._saved) if self.artifact.is_dir() and self._saved.is_file() else None

    def unhealed(self) -> list[dict[str, Any]]:
        """What `keep_unhealed` kept; empty when that has not happened yet."""
        return _read_json(self._unhealed)["texts"] if self._unhealed.is_file() else []

    def keep_unhealed(self, texts: list[dict[str, Any]]) -> None:
        """Keep the quality of the changed model before healing, by text, for a run that goes on with this one."""
        with writing(self.path):
            write_json(self._unhealed, {"texts": texts})

    @contextmanager
    def saving(self, notes: dict[str, Any]) -> Iterator[Path]:
        """A folder to save into; it counts only when the block ends, in one rename."""
        beside = self.artifact.with_suffix(".tmp")
        with writing(self.path):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            yield beside
            write_json(self._saved, notes)
            beside.rename(self.artifact)

    def publish(self, target: Path, *, replace: bool) -> Path | None:
        """Rename the finished artifact to `target`; what already exists is moved aside, never deleted. Returns where."""
        with writing(target):
            aside = None
            if is_taken(target):
                if not replace:
                    raise fail(
                        "LB460",
                        f"{target} appeared during this run",
                        help="move it away and run again with --resume",
                    )
                aside = free_name(target, "old")
                target.rename(aside)
            self.artifact.rename(target)
            shutil.rmtree(self.path, ignore_errors=True)
            return aside


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failed write (full disk, no permission, ...) into LB463; safetensors has an error type of its own."""
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
            message, help = f"{path} could not be written: {problem}", "run again with --resume once that is mended"
        raise LbdslError([error("LB463", message, help=help)]) from problem


def check_room(output: Path, needed_bytes: int) -> None:
    """LB463 before any work is done, when the output's folder cannot be written or has too little room."""
    parent = output.parent
    existing = next(folder for folder in (parent, *parent.parents) if folder.exists())
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
    """Write beside, then rename."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(value, indent=1))
    beside.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise fail("LB462", f"{path} cannot be read: {problem}", help="add --force to discard the unfinished run") from None
