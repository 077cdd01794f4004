"""File names: the closest existing path for "did you mean", and names that are safe as file names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lbdsl.core.nearest import nearest

MOST_NAMES = 2000
"""How many names of one folder are compared at most."""


def nearest_path(path: str | Path) -> str | None:
    """The existing path closest to `path`, which does not exist: its first wrong name is replaced by the closest one in its
    folder. None when no name is close, or the rest of the path does not exist either."""
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
    """A help line with the closest path, if there is one."""
    near = nearest_path(path)
    return (f"did you mean {near}?",) if near else ()


def inside(folder: Path, *names: str) -> tuple[str, ...]:
    """A help line with the only folder in `folder` that has a file of the first of `names` that any has."""
    for name in names:
        having = [path.parent for path in sorted(folder.glob(f"*/{name}")) if path.is_file()]
        if having:
            return (f"did you mean {having[0]}?",) if len(having) == 1 else ()
    return ()


def is_model(path: str | Path) -> bool:
    """Whether a path looks like a model: a folder with a config.json or a .gguf file, or a file of weights."""
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            return (place / "config.json").is_file() or any(name.lower().endswith(".gguf") for name in os.listdir(place))
        return place.is_file() and place.suffix.lower() in (".gguf", ".safetensors")
    except (OSError, ValueError, RuntimeError):
        return False


def plain_name(name: str, otherwise: str) -> str:
    """`name` made safe as a file name: only letters, digits, `.`, `_` and `-`; `otherwise` if nothing is left."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or otherwise
