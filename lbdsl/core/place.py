"""Which files the names in a recipe may mean. A recipe, a saved plan and an artifact are data, and may come from others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lbdsl.core.diagnostic import fail


@dataclass(frozen=True)
class FileScope:
    """`folder`: where relative names start. `own`: the folders whose files may be named: the recipe's, and those that the
    user allowed. `given`: names that the user gave on the command line, which may be anywhere. `task_code`: whether the
    files of tasks may run code."""

    folder: Path
    own: tuple[Path, ...]
    given: frozenset[str] = frozenset()
    task_code: bool = False

    def holds(self, path: Path) -> bool:
        return any(lies_in(path, folder) for folder in self.own)

    def file(self, name: str) -> Path:
        """The path of a file that need not exist. Raises LB479 for one outside: no link leads out either."""
        path = self.folder / os.path.expanduser(name)
        if name not in self.given and not self.holds(path):
            outside = _real(path).parent
            own = " and ".join(dict.fromkeys(map(os.path.realpath, self.own)))
            raise fail(
                "LB479",
                f"{name} is outside of {own}, and a recipe, plan or artifact names only files in its own folder",
                help=(f"if you want it read, allow its folder: --allow-path {outside}", "or move it there"),
            )
        return path


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder or below it, wherever links lead."""
    return _real(path).is_relative_to(_real(folder))


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # It can be no path, as with a zero byte.
        return path.absolute()


Folder = FileScope | Path | str | None
"""Where names start: a `Place` for names of a recipe. Any other is of a program that may name what it wants; None is the
working directory."""


def file_at(name: str, folder: Folder = None) -> Path:
    """The file that a name means. `~name` stays as it is written where there is no such user."""
    return folder.file(name) if isinstance(folder, FileScope) else Path(folder or ".") / os.path.expanduser(name)
