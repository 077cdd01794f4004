"""Writing one text file: beside its place first, then renamed, so that no half of it is ever seen."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from lbdsl.core.diagnostic import LbdslError, fail


def write_beside(path: Path, text: str, *, replace: bool = False) -> None:
    """Write UTF-8 text with `\\n` as line ends. An existing file keeps its mode.

    Raises LbdslError: LB046 when there is another text already and not `replace`, LB047 when it cannot be written.
    """
    data = text.encode()
    try:
        mode = _mode(path)
        if mode is not None and not replace:
            if path.is_file() and path.read_bytes() == data:
                return
            raise fail("LB046", f"{path} is there already", help="give another name with -o, or add --force")
        _write(path, data, 0o666 & ~_umask() if mode is None else mode)
    except OSError as problem:
        raise _unwritable(path, problem) from None


def _mode(path: Path) -> int | None:
    """The permission bits of what stands at the path; None when nothing does."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise fail("LB047", f"cannot write {path}: it is not a file")
    return stat.S_IMODE(found.st_mode)


def _write(path: Path, data: bytes, mode: int) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def _unwritable(path: Path, problem: OSError) -> LbdslError:
    return fail("LB047", f"cannot write {path}: {problem.strerror or problem}")
