"""Writing one of the user's text files, with diagnostics when that fails."""

from __future__ import annotations

from pathlib import Path

from lbdsl.core.diagnostic import fail
from lbdsl.core.files import replace_file


def write_beside(path: Path, text: str, *, replace: bool = False) -> None:
    """Write UTF-8 text as it is, atomically. An existing file keeps its mode.

    Raises LbdslError: LB046 when the file exists with another text and `replace` is False, LB047 when it cannot be written.
    """
    data = text.encode()
    try:
        there = path.exists()
        if there and not path.is_file():
            raise fail("LB047", f"cannot write {path}: it is not a file")
        if there and not replace:
            if path.read_bytes() == data:
                return
            raise fail("LB046", f"{path} already exists", help="give another name with -o, or add --force")
        replace_file(path, data)
    except OSError as problem:
        raise fail("LB047", f"cannot write {path}: {problem.strerror or problem}") from None
