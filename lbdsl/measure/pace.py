"""This machine's throughput of a model in tokens per second: recorded whenever it measures or heals, for estimates."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lbdsl.core.cache import MACHINES
from lbdsl.core.digest import digest_of, short
from lbdsl.core.files import json_entry, replace_entry
from lbdsl.core.progress import Report
from lbdsl.cost.facts import ModelFacts
from lbdsl.measure.machine import machine_identity
from lbdsl.plan.estimate import units

LEAST_SECONDS = 1.0
"""Shorter runs are too noisy to record."""

NOTE_SECONDS = 15.0
"""Minimum interval between two records during a run, since each writes a file."""


class Pace:
    """Tokens per second of one model on one device, by kind of work: `forward` through all layers and the head, `heal` as
    seen in healing. Kept in the cache folder; write errors are ignored, as it can be measured again."""

    def __init__(self, model_digest: str, facts: ModelFacts, device: Any, cache_dir: Path):
        identity = {"model": model_digest, **machine_identity(device, facts.dtype)}
        self._path = MACHINES.path(cache_dir, f"pace-{short(digest_of(identity), 16)}.json")

    def known(self, kind: str) -> float | None:
        """Tokens per second; None if this machine has not yet done such work with this model."""
        try:
            found = json_entry(self._path)[kind]
            return float(found) if found > 0 else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, kind: str, tokens_a_second: float) -> None:
        kinds = {name: value for name in ("forward", "heal") if (value := self.known(name)) is not None}
        with suppress(OSError):
            replace_entry(self._path, json.dumps({**kinds, kind: tokens_a_second}).encode())


class Timed:
    """A progress callback for a measurement on sequences of `seq` tokens that also records its throughput."""

    def __init__(self, report: Report, pace: Pace, facts: ModelFacts, seq: int):
        self._report, self._pace, self._facts, self._seq = report, pace, facts, seq
        self._first: tuple[float, float] | None = None
        self._next = 0.0

    def __call__(self, done: float, total: float, note: str = "") -> None:
        self._report(done, total, note)
        now = time.monotonic()
        if self._first is None:
            # The time before the first report includes loading, so it is not counted.
            self._first = (done, now)
            return
        seconds = now - self._first[1]
        if seconds >= LEAST_SECONDS and (done >= total or now >= self._next):
            self._next = now + NOTE_SECONDS
            whole = units(self._facts, 1)
            self._pace.note("forward", (done - self._first[0]) * self._seq / whole / seconds)
