"""Measurements on disk: per-sequence sums in one SQLite file, shared by every process."""

from __future__ import annotations

import math
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from lbdsl.core.cache import MEASUREMENTS
from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.files import check_regular
from lbdsl.core.measurement import Measurement, Request, clustered_mean
from lbdsl.core.units import Unit

T = TypeVar("T")

FILE_NAME = "measurements.sqlite"
FORMAT_VERSION = 1
BUSY_SECONDS = 60.0

MODEL_LAYER = -1
"""The layer number for values of the whole model."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sums (
    fingerprint TEXT NOT NULL,
    metric TEXT NOT NULL,
    action TEXT NOT NULL,
    layer INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    total REAL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, metric, action, layer, sequence)
) WITHOUT ROWID
"""


def open_store(cache_dir: Path) -> Store:
    """Open the measurement store of a cache folder; create it if it does not exist."""
    return Store(MEASUREMENTS.path(cache_dir, FILE_NAME))


_CLAIMS = "CREATE TABLE IF NOT EXISTS claims (work TEXT PRIMARY KEY, host TEXT, pid INTEGER, until REAL) WITHOUT ROWID"

CLAIM_SECONDS = 600.0
"""A claim of a process on another machine ends so long after it was made; of one on this machine, with the process."""
CLOCK_SECONDS = 1.0
"""By which the time at which a process began may be off."""


@dataclass(frozen=True)
class SequenceSum:
    """The sum of a per-token value over one sequence, and its number of tokens."""

    total: float
    tokens: int


def mean_of(sums: Sequence[SequenceSum], unit: Unit) -> Measurement:
    """The mean over all tokens, with its error."""
    return clustered_mean([one.total for one in sums], [one.tokens for one in sums], unit)


class Store:
    """Sums by (fingerprint, request, sequence). A context manager; close it when done.

    Every `put` is one transaction: after a kill the file holds all of it or nothing. Two processes may write at once.
    Raises LbdslError LB448 if the file is damaged, locked for long, of another version or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise fail(
                "LB448", f"{path.parent} cannot be made: {problem.strerror}", help="choose another folder with --cache-dir"
            ) from None
        try:
            _check_files(path)
        except OSError as problem:
            help = "delete it, or choose another folder with --cache-dir"
            raise fail("LB448", f"{problem.filename} cannot be used: {problem.strerror}", help=help) from None
        self._connection = self._guarded(lambda: sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None))
        try:
            self._guarded(self._prepare)
        except LbdslError:
            self.close()
            raise

    def get(self, fingerprint: str, request: Request) -> Mapping[int, SequenceSum]:
        """Stored sums by sequence number; empty if there are none."""
        rows = self._guarded(
            lambda: self._connection.execute(
                "SELECT sequence, total, tokens FROM sums "
                "WHERE fingerprint = ? AND metric = ? AND action = ? AND layer = ?",
                (fingerprint, request.metric, request.action, request.layer),
            ).fetchall()
        )
        # SQLite has no NaN and keeps it as NULL.
        return {sequence: SequenceSum(math.nan if total is None else total, tokens) for sequence, total, tokens in rows}

    def put(self, fingerprint: str, sums: Iterable[tuple[Request, int, SequenceSum]]) -> None:
        """Store sums by (request, sequence), replacing existing ones. They are committed when it returns."""
        rows = [
            (fingerprint, request.metric, request.action, request.layer, sequence, value.total, value.tokens)
            for request, sequence, value in sums
        ]

        def write() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

        self._guarded(write)

    @contextmanager
    def claimed(self, work: str) -> Iterator[bool]:
        """Context in which this process may do `work`, if it yields True: then no other one that lives is at it."""
        mine = self._guarded(lambda: self._claim(work))
        try:
            yield mine
        finally:
            if mine:
                self._guarded(lambda: self._connection.execute("DELETE FROM claims WHERE work = ?", (work,)))

    def _claim(self, work: str) -> bool:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            claim = self._connection.execute("SELECT host, pid, until FROM claims WHERE work = ?", (work,)).fetchone()
            if claim is not None and _lives(*claim):
                return False
            own = (work, platform.node(), os.getpid(), time.time() + CLAIM_SECONDS)
            self._connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", own)
            return True
        finally:
            self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT_VERSION):
            raise fail(
                "LB448",
                f"{self.path} was written by another version of lbdsl (format {version})",
                help=(f"delete it, then measure again: rm {self.path}", "or choose another --cache-dir"),
            )
        # A write-ahead log would be faster, and cannot be shared by several machines.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            self._connection.execute(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        self._connection.execute(_CLAIMS)
        # A damaged page may be where no later query reads; the file is small, so all of it is checked.
        (state,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        self._connection.execute("SELECT total, tokens FROM sums LIMIT 1").fetchall()

    def _guarded(self, work: Callable[[], T]) -> T:
        """Run `work`; turn SQLite errors into LbdslError LB448."""
        try:
            return work()
        except sqlite3.ProgrammingError:
            raise  # a bug in lbdsl, not a problem of the file
        except sqlite3.OperationalError as problem:
            if "locked" in str(problem) or "busy" in str(problem):
                advice = "another lbdsl is writing to it; try again when that has ended"
            else:
                advice = "check permissions and free space, or choose another folder with --cache-dir"
            raise fail("LB448", f"{self.path} cannot be used: {problem}", help=advice) from None
        except sqlite3.DatabaseError as problem:
            raise fail(
                "LB448", f"{self.path} is damaged: {problem}", help=f"delete it, then measure again: rm {self.path}*"
            ) from None


def _check_files(path: Path) -> None:
    """Raise OSError for one of SQLite's files that is no file, such as a pipe: it would wait for what never comes."""
    for name in ("", "-journal", "-wal", "-shm"):
        check_regular(Path(f"{path}{name}"))


def in_use(path: Path) -> bool:
    """Whether another process writes to the store at `path`, or has claimed work in it. A damaged one is in use by none."""
    try:
        _check_files(path)
    except OSError:
        return False
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
            return any(_lives(*claim) for claim in connection.execute("SELECT host, pid, until FROM claims"))
        except sqlite3.OperationalError as problem:
            return "locked" in str(problem) or "busy" in str(problem)
        except sqlite3.DatabaseError:
            return False


def _lives(host: str, pid: int, until: float) -> bool:
    """Whether the process that made a claim may still be at it."""
    if host != platform.node():
        return time.time() < until
    try:
        # One that began after the claim has got the number of a process that ended.
        return pid != os.getpid() and psutil.Process(pid).create_time() < until - CLAIM_SECONDS + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
