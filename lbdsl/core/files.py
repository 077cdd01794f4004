"""Writing one file: beside its place first, then renamed, so that no reader ever sees half of it."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of this content. One that was there keeps its mode; a new one is as readable as the user's umask says.

    Raises OSError; then what was there is still there, and nothing stands beside it.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes a file that only its user can read.
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def replace_entry(path: Path, data: bytes) -> None:
    """As `replace_file`, in a folder that is made where it is missing: for caches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)


def umask() -> int:
    """The process's umask, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return 0o666 & ~umask()
