"""Names of files: the one that was meant, for "did you mean", and those made of other names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lbdsl.core.registry import nearest

MOST_NAMES = 2000
"""Names of one folder that are looked at."""


def nearest_path(path: str | Path) -> str | None:
    """An existing path most like `path`, which does not exist: the first wrong name in it replaced by the nearest one of
    its folder. None when nothing is close, or the rest of it is not there either."""
    written = os.fspath(path)
    parts = Path(written).parts
    for index, part in enumerate(parts):
        before = os.path.join(*parts[:index]) if index else ""
        if os.path.lexists(os.path.join(before, part)):
            continue
        try:
            names = sorted(os.listdir(before or "."))[:MOST_NAMES]
        except (OSError, ValueError):
            return None
        near = nearest(part, names)
        meant = None if near is None else os.path.join(before, near, *parts[index + 1 :])
        return meant if meant is not None and os.path.exists(meant) else None
    return None


def did_you_mean(path: str | Path) -> tuple[str, ...]:
    """A help line with the nearest path, where there is one."""
    near = nearest_path(path)
    return (f"did you mean {near}?",) if near else ()


def plain_name(name: str, otherwise: str) -> str:
    """A name as one file or folder can carry it, wherever it comes from: letters, digits, `.`, `_` and `-`, no path."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or otherwise
