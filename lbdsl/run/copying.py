"""Copy bytes between files: in the kernel if possible, else through one small buffer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lbdsl.core.diagnostic import fail

STEP = 64 * 2**20
"""Bytes per kernel call, so that progress is reported and Ctrl-C works in between."""

BUFFER = 2**20
"""Buffer size in bytes where the kernel cannot copy."""

_CANNOT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ENOTSOCK, errno.ETXTBSY}
)
"""Errors that mean that one way of copying does not work for these two files, but another may."""

_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES})
"""Errors of a refused hard link: another file system, no link support, too many links, or another owner's file."""


def copy_range(source: int, target: int, start: int, length: int, tell: Callable[[int], None] = lambda count: None) -> None:
    """Append bytes start .. start + length - 1 of the open file `source` to `target`, at its current position.

    `tell` is called with the bytes of each step. Raises LB419 if the source is too short, and OSError.
    """
    ways = list(_WAYS)
    while length > 0:
        try:
            count = ways[0](source, target, start, min(length, STEP))
        except OSError as problem:
            # A failed call copies nothing, so the next way continues from here.
            if len(ways) == 1 or problem.errno not in _CANNOT:
                raise
            del ways[0]
            continue
        if count == 0:
            if len(ways) > 1:
                # 0 means end of file, or on some file systems an error; a plain read distinguishes the two.
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
    """Write all of `data`; one system call may write only a part."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(target, left) :]


def link_or_copy(source: Path, target: Path, tell: Callable[[int], None] = lambda count: None) -> bool:
    """Make `target` a hard link to the file behind `source`, or a copy if linking fails; returns True for a link.

    A link has the owner, mode and times of the source. Raises LB419 and OSError as in `copy_range`.
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


@contextmanager
def whole_file(path: Path) -> Iterator[int]:
    """A file descriptor to write to. The file gets its name only if the block ends without an exception, after its bytes
    are synced to disk."""
    beside = path.with_name(f".{path.name}.part")
    opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        try:
            yield opened
            os.fsync(opened)
        finally:
            os.close(opened)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    os.replace(beside, path)
