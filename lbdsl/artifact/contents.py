"""What an artifact is: its files with their digests, looked at in one place by all that read a folder.

Whatever lies below the folder belongs to it, by any name: a loader may run `custom_generate/generate.py`, or take an
`adapter_model.safetensors`. What hubs and people put beside it passes by a short list, none of which a loader reads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from lbdsl.core.diagnostic import Diagnostic, fail, note, warning
from lbdsl.core.digest import digest_file, digest_text

RECORD_FILE, CARD = "lbdsl.json", "README.md"
FOLDERS_BESIDE = ".cache", ".git"
FILES_BESIDE = ".gitattributes", ".gitignore", "*.md", "*.png", "*.jpg", "*.jpeg", "*.svg"
LICENSES = tuple(
    name + suffix for name in ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*") for suffix in (".txt", ".md", ".rst", "")
)
"""Names of license files; those without a suffix have no dot at all."""
UNREADABLE = "not a regular file"


def lies_beside(name: str) -> bool:
    """Whether the file at the path `name` in an artifact may be there without being part of it."""
    first, *rest = Path(name).parts
    if rest:
        return first in FOLDERS_BESIDE
    return any(fnmatchcase(name, each) for each in FILES_BESIDE) or is_license(name)


def is_license(name: str) -> bool:
    """Whether a license file by this name may lie in an artifact: a text, which nothing loads."""
    return any(fnmatchcase(name, each) for each in LICENSES if Path(each).suffix or "." not in name)


def files_below(folder: Path) -> list[str]:
    """Paths of all that lies below a folder and is not a folder, relative to it, in order; no link to a folder is
    followed. Raises OSError."""
    found, left = [], [""]
    while left:
        place = left.pop()
        for entry in os.scandir(folder / place):
            name = f"{place}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                left.append(f"{name}/")
            else:
                found.append(name)
    return sorted(found)


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file that belongs to the artifact in `folder`, by its path; not of the record. Raises OSError."""
    names = [name for name in files_below(folder) if name != RECORD_FILE and not lies_beside(name)]
    # Of a link to a folder, or of a named pipe, which would block, a value that matches no recorded hash.
    return {name: digest_file(folder / name) if (folder / name).is_file() else UNREADABLE for name in names}


def shown_hashes(folder: Path) -> dict[str, str]:
    """sha256 of the model card, without its front matter, to which a hub's license is added, and of its pictures."""
    found = {}
    for path in (folder / CARD, *sorted(folder.glob("*.png"))):
        if path.is_file() and not path.is_symlink():
            found[path.name] = digest_file(path) if path.name != CARD else digest_text(_body(path))
    return found


class Recorded(Protocol):
    """What a record says of files: the sha256 of each by its path, and of the card and pictures where it has them."""

    @property
    def files(self) -> Mapping[str, str]: ...
    @property
    def shown(self) -> Mapping[str, str] | None: ...


def check_files(folder: Path, record: Recorded) -> tuple[Diagnostic, ...]:
    """Raise LB465 if a file of the artifact is missing, not in the record, changed since it was saved, or cannot be read;
    warnings of LB492 for a card and pictures that differ from what was written."""
    try:
        names = {name for name in files_below(folder) if name != RECORD_FILE and not lies_beside(name)}
        for name in sorted({*names, *record.files}):
            path = folder / name
            if name not in names:
                raise fail("LB465", f"{path} is missing")
            if name not in record.files:
                help = "remove it: a program that loads the folder may read or run it"
                raise fail("LB465", f"{path} is not in the record", help=help)
            if not path.is_file() or digest_file(path) != record.files[name]:
                raise fail("LB465", f"{path} changed after it was saved")
        shown = shown_hashes(folder)
    except OSError as problem:
        raise fail("LB465", f"{problem.filename or folder} cannot be read: {problem.strerror or problem}") from None
    if record.shown is None:
        old = f"{folder / RECORD_FILE} is of an earlier version: it has no digests of {CARD} and pictures"
        return (note("LB492", f"{old}, which were not checked"),)
    differing = [name for name in record.shown if shown.get(name) != record.shown[name]]
    return tuple(
        warning("LB492", f"{folder / name} is not as it was written", help="it says what somebody else wrote, or is gone")
        for name in differing
    )


def _body(path: Path) -> str:
    """The text of a card after its front matter."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    _, mark, body = text.removeprefix("---\n").partition("\n---\n")
    return (body if text.startswith("---\n") and mark else text).strip()
