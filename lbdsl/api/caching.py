"""`cached` and `prune`: what lbdsl keeps in its cache folders, and deleting it by kind and age."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from lbdsl.bench.environments import engines_folder
from lbdsl.core.cache import KINDS, LOCK, MEASUREMENTS, Kind, Root, alone
from lbdsl.core.diagnostic import Diagnostic, LbdslError, error, fail
from lbdsl.measure.store import in_use
from lbdsl.model.digest import default_cache_dir


@dataclass(frozen=True)
class Entry:
    """Files of a kind that belong together, or a folder of it, at `place` below the root. `written` and `used` are seconds
    since 1970: when the first file was written, and when one was last read or written."""

    kind: Kind
    place: str
    paths: tuple[Path, ...]
    bytes: int
    written: float
    used: float


@dataclass(frozen=True)
class Cached:
    """The entries below the roots, by kind and place, and what there is not lbdsl's."""

    roots: Mapping[Root, Path]
    entries: tuple[Entry, ...]
    foreign: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    def by_kind(self) -> Iterator[tuple[Kind, list[Entry]]]:
        for kind, entries in groupby(self.entries, key=lambda entry: entry.kind):
            yield kind, list(entries)

    def of(self, kinds: Collection[str], unused: float = 0.0) -> Cached:
        """Those of these kinds that were not used in the last `unused` seconds."""
        before = time.time() - unused
        kept = (entry for entry in self.entries if entry.kind.name in kinds and (not unused or entry.used <= before))
        return replace(self, entries=tuple(kept), foreign=())

    def to_json(self) -> dict[str, Any]:
        """The JSON of `cache --json` (with `--prune`: of what is deleted); times are in UTC, `oldest` of writing and
        `last_used` of reading or writing."""
        rows = [
            {
                "kind": kind.name,
                "what": kind.what,
                "folder": str(self.roots[kind.root] / kind.folder),
                "entries": len(entries),
                "bytes": sum(entry.bytes for entry in entries),
                "oldest": _time_text(min(entry.written for entry in entries)),
                "last_used": _time_text(max(entry.used for entry in entries)),
            }
            for kind, entries in self.by_kind()
        ]
        return {"format_version": 1, "kinds": rows, "foreign": [str(path) for path in self.foreign]}


def cached(cache_dir: Path | None = None) -> Cached:
    """What is kept in the cache folder (None: the user's) and in the folder of engines. Links are not followed: they are
    not lbdsl's."""
    # Where a root itself is a link is the user's choice.
    cache: Path = (cache_dir or default_cache_dir()).expanduser()
    roots: dict[Root, Path] = {"cache": cache.resolve(), "engines": engines_folder()}
    entries: list[Entry] = []
    foreign: list[Path] = []
    for name, root in roots.items():
        kinds = [kind for kind in KINDS if kind.root == name]
        found: dict[tuple[Kind, str], list[Path]] = {}
        for path, owner in _walk(root, "", kinds):
            if owner is None:
                foreign.append(path)
            else:
                found.setdefault(owner, []).append(path)
        entries += [_entry(*owner, paths) for owner, paths in found.items()]
    entries.sort(key=lambda entry: (KINDS.index(entry.kind), entry.place))
    return Cached(roots, tuple(entries), tuple(foreign))


def prune(chosen: Cached) -> tuple[Cached, tuple[Diagnostic, ...]]:
    """Delete the entries of `chosen`, but none that was used since it was listed: those that were deleted, and an error for
    each that cannot be. Raises LB448, before anything is deleted, if another lbdsl uses one of the folders."""
    deleted: list[Entry] = []
    problems: list[Diagnostic] = []
    with ExitStack() as stack:
        for root in {chosen.roots[entry.kind.root] for entry in chosen.entries}:
            try:
                if not stack.enter_context(alone(root)):
                    raise _in_use(root)
            except OSError as problem:
                raise fail("LB448", f"{root} cannot be locked, so nothing is deleted: {problem.strerror}") from None
        # Before anything is read here, which is a use, too.
        unused = [entry for entry in chosen.entries if _entry(entry.kind, entry.place, entry.paths).used <= entry.used]
        for entry in unused:
            # On another machine the folder's lock may not be seen.
            place = chosen.roots[entry.kind.root] / entry.place
            if entry.kind is MEASUREMENTS and in_use(place):
                raise _in_use(place)
        for entry in unused:
            try:
                for path in entry.paths:
                    _delete(path)
                deleted.append(entry)
            except OSError as problem:
                problems.append(error("LB448", f"{problem.filename} cannot be deleted: {problem.strerror}"))
    return replace(chosen, entries=tuple(deleted)), tuple(problems)


def _in_use(path: Path) -> LbdslError:
    return fail("LB448", f"{path} is in use by another lbdsl: nothing is deleted", help="try again when that has ended")


def _walk(folder: Path, below: str, kinds: Sequence[Kind]) -> Iterator[tuple[Path, tuple[Kind, str] | None]]:
    """Files and whole folders with what they belong to (None: they are not lbdsl's)."""
    folders = {kind.folder for kind in kinds}
    try:
        items = sorted(os.scandir(folder), key=lambda item: item.name)
    except FileNotFoundError:
        return
    except OSError as problem:
        if not below:
            raise fail("LB448", f"{folder} cannot be read: {problem.strerror}") from None
        yield folder, None
        return
    for item in items:
        name, is_folder = below + item.name, item.is_dir(follow_symlinks=False)
        known = is_folder or item.is_file(follow_symlinks=False)
        owners = ((kind, place) for kind in kinds if (place := kind.entry(name, is_folder)) is not None)
        owner = next(owners, None) if known else None
        if is_folder and owner is None and name.partition("/")[0] in folders:
            yield from _walk(Path(item.path), f"{name}/", kinds)
        elif name != LOCK:
            yield Path(item.path), owner


def _entry(kind: Kind, place: str, paths: Sequence[Path]) -> Entry:
    states = [path.lstat() for path in paths if path.exists()]
    if kind.whole:
        inside = (Path(folder, name) for path in paths for folder, _, names in os.walk(path) for name in names)
        states = [path.lstat() for path in inside] or states
    written = min((state.st_mtime for state in states), default=0.0)
    used = max((max(state.st_mtime, state.st_atime) for state in states), default=0.0)
    return Entry(kind, place, tuple(paths), sum(state.st_size for state in states), written, used)


def _delete(path: Path) -> None:
    """Delete a file, or a folder with all in it (links are deleted, and not followed), and folders above that are empty."""
    if path.is_dir():
        # A folder without some of its files must not pass for a whole one.
        aside = path.with_name(f".pruned-{uuid4().hex[:8]}")
        path.rename(aside)
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        # A root has its lock in it, and stays.
        os.removedirs(path.parent)


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
