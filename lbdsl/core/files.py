"""Atomic file writes: to a temporary file in the same folder, then renamed, so that no reader sees a partial file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically. An existing file keeps its mode; a new one gets the mode of the user's umask.

    Raises OSError; then an existing file is unchanged, and no temporary file is left.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates a file that only its user can read.
        os.chmod(name, stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def replace_entry(path: Path, data: bytes) -> None:
    """Like `replace_file`, but create the folder if it is missing: for caches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)


def read_entry(path: Path) -> bytes:
    """The bytes of a file in a cache. Raises OSError for one that is not regular: a pipe or a device may have no end."""
    check_regular(path)
    return path.read_bytes()


def json_entry(path: Path) -> Any:
    """The JSON of a file in a cache. Raises OSError as `read_entry` does, and ValueError for what is none."""
    try:
        return json.loads(read_entry(path))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


def check_regular(path: Path) -> None:
    """Raises OSError for a path that is there, and is no regular file."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))


def keep_in_cache(path: Path, data: bytes) -> None:
    """As `replace_entry`, for what a run needs. Raises LB448."""
    try:
        replace_entry(path, data)
    except OSError as problem:
        message = f"{path} cannot be written: {problem.strerror}"
        raise fail("LB448", message, help="choose another folder with --cache-dir") from None


def sync_files(folder: Path) -> None:
    """Sync all that is in `folder` to disk, before something says that it is there."""
    for path in (*folder.rglob("*"), folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def umask() -> int:
    """The umask of the process, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current
