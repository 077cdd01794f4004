"""Writing one text file of the user's, and what is said when that cannot be done."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lbdsl.core.diagnostic import fail
from lbdsl.core.files import replace_file


def write_beside(path: Path, text: str, *, replace: bool = False) -> None:
    """Write UTF-8 text with `\\n` as line ends, in one step. An existing file keeps its mode.

    Raises LbdslError: LB046 when there is another text already and not `replace`, LB047 when it cannot be written.
    """
    data = text.encode()
    try:
        if _is_there(path) and not replace:
            if path.read_bytes() == data:
                return
            raise fail("LB046", f"{path} already exists", help="give another name with -o, or add --force")
        replace_file(path, data)
    except OSError as problem:
        raise fail("LB047", f"cannot write {path}: {problem.strerror or problem}") from None


def _is_there(path: Path) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise fail("LB047", f"cannot write {path}: it is not a file")
    return True
