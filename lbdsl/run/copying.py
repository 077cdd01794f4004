"""Moving bytes between files without holding them: in the kernel where it can, through one small buffer where not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from lbdsl.core.diagnostic import fail

STEP = 64 * 2**20
"""Bytes asked of the kernel at once, so that progress is told and Ctrl-C is heard."""

BUFFER = 2**20
"""Bytes held at once where the kernel cannot copy by itself."""

_CANNOT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ENOTSOCK, errno.ETXTBSY}
)
"""What the kernel answers when it cannot copy between these two files in this way, while another way may do."""

_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES})
"""What it answers when it will not link: another file system, no links there, too many, or a file of somebody else."""


def copy_range(source: int, target: int, start: int, length: int, tell: Callable[[int], None] = lambda count: None) -> None:
    """Append bytes start .. start + length - 1 of the open file `source` to `target`, at its current position.

    `tell` gets the bytes of each step. LB419 when the source ends before that; OSError as the system raises it.
    """
    ways = list(_WAYS)
    while length > 0:
        try:
            count = ways[0](source, target, start, min(length, STEP))
        except OSError as problem:
            # A way that fails moves nothing, so the next one goes on from here.
            if len(ways) == 1 or problem.errno not in _CANNOT:
                raise
            del ways[0]
            continue
        if count == 0:
            if len(ways) > 1:
                # Some file systems answer 0 instead of an error; reading says which of the two it is.
                del ways[0]
                continue
            raise fail(
                "LB419",
                "a weights file was truncated while it was copied",
                help="wait until it is written, then run again",
            )
        start, length = start + count, length - count
        tell(count)


def _in_kernel(source: int, target: int, start: int, count: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, "no copy_file_range here")
    return os.copy_file_range(source, target, count, start)


def _by_sendfile(source: int, target: int, start: int, count: int) -> int:
    if not hasattr(os, "sendfile"):
        raise OSError(errno.ENOSYS, "no sendfile here")
    return os.sendfile(target, source, start, count)


def _through_buffer(source: int, target: int, start: int, count: int) -> int:
    chunk = os.pread(source, min(count, BUFFER), start)
    write_all(target, chunk)
    return len(chunk)


_WAYS: tuple[Callable[[int, int, int, int], int], ...] = (_in_kernel, _by_sendfile, _through_buffer)


def write_all(target: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`; the system may take less at a time."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(target, left) :]


def link_or_copy(source: Path, target: Path, tell: Callable[[int], None] = lambda count: None) -> bool:
    """Make `target` a hard link to the file that `source` leads to, or a copy where that cannot be; True for a link.

    A link keeps owner, mode and times: they are the source's. LB419 and OSError as in `copy_range`.
    """
    real = source.resolve(strict=True)
    size = real.stat().st_size
    try:
        os.link(real, target)
    except OSError as problem:
        if problem.errno not in _NO_LINK:
            raise
    else:
        tell(size)
        return True
    reader = os.open(real, os.O_RDONLY)
    try:
        with whole_file(target) as writer:
            copy_range(reader, writer, 0, size, tell)
    finally:
        os.close(reader)
    return False


class whole_file:  # noqa: N801  (used as a function is)
    """A context: a file descriptor to write to. The file stands under its name only when the block has ended well, and
    its bytes are on the disk by then."""

    def __init__(self, path: Path):
        self._path = path
        self._beside = path.with_name(f".{path.name}.part")
        self._open = -1

    def __enter__(self) -> int:
        self._open = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        return self._open

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                os.fsync(self._open)
        finally:
            os.close(self._open)
            if kind is not None:
                self._beside.unlink(missing_ok=True)
        if kind is None:
            os.replace(self._beside, self._path)


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk when this returns."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
