"""The store: exact sums, several processes, kills, damage."""

from __future__ import annotations

import math
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import count, takewhile
from pathlib import Path

import psutil
import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.digest import digest_file
from lbdsl.core.measurement import Request
from lbdsl.measure import fingerprint as fingerprints
from lbdsl.measure.fingerprint import fingerprint, versions_of
from lbdsl.measure.store import CLAIM_SECONDS, FILE_NAME, SequenceSum, Store, open_store

KEY = Request("nll", "drop", 3)

WRITER = """
import sys
from pathlib import Path
from lbdsl.core.measurement import Request
from lbdsl.measure.store import SequenceSum, open_store
folder, name, first, last = sys.argv[1:]
print("ready", flush=True)
for layer in range(int(first), int(last)):
    with open_store(Path(folder)) as store:
        # Many rows a transaction: a torn one would be seen.
        store.put("print", [(Request(name, "drop", layer), row, SequenceSum(layer + row / 7, 1023)) for row in range(200)])
"""


def start_writer(folder, name, first, last) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(first), str(last)], stdout=subprocess.PIPE, text=True
    )


def test_sums_come_back_exactly(tmp_path):
    sums = {
        0: SequenceSum(0.1 + 0.2, 1023),
        1: SequenceSum(-math.pi * 1e-300, 7),
        2: SequenceSum(math.inf, 1),
        3: SequenceSum(math.nan, 1),
    }
    with open_store(tmp_path / "new" / "folder") as store:
        store.put("a", [(KEY, row, value) for row, value in sums.items()])
    with open_store(tmp_path / "new" / "folder") as store:
        found = store.get("a", KEY)
        assert [found[i] for i in range(3)] == [sums[i] for i in range(3)]
        assert math.isnan(found[3].total)
        assert store.get("b", KEY) == {}
        assert store.get("a", replace(KEY, layer=4)) == {}
        assert store.get("a", replace(KEY, action="")) == {}
        store.put("a", [(KEY, 0, SequenceSum(1.0, 2))])
        assert store.get("a", KEY)[0] == SequenceSum(1.0, 2)


@pytest.mark.large
def test_two_processes_at_once(tmp_path):
    writers = [start_writer(tmp_path, name, 0, 40) for name in ("nll", "kl")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    with open_store(tmp_path) as store:
        for name in ("nll", "kl"):
            for layer in range(40):
                assert store.get("print", Request(name, "drop", layer)) == {
                    row: SequenceSum(layer + row / 7, 1023) for row in range(200)
                }


def test_killed_writer_leaves_whole_transactions(tmp_path):
    writer = start_writer(tmp_path, "nll", 0, 100_000)
    assert writer.stdout.readline() == "ready\n"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.1)
        with open_store(tmp_path) as store:
            if store.get("print", Request("nll", "drop", 5)):
                break
    os.kill(writer.pid, signal.SIGKILL)
    assert writer.wait(timeout=10) == -signal.SIGKILL
    with open_store(tmp_path) as store:
        sizes = list(takewhile(bool, (len(store.get("print", Request("nll", "drop", layer))) for layer in count())))
        assert not store.get("print", Request("nll", "drop", len(sizes) + 1))
    assert len(sizes) > 5
    assert set(sizes) == {200}


def test_failed_put_leaves_the_store_usable(tmp_path):
    with open_store(tmp_path) as store:
        with pytest.raises(sqlite3.ProgrammingError):
            store.put("a", [(KEY, 0, SequenceSum(1.0, 1)), (KEY, 1, SequenceSum([], 1))])  # type: ignore[arg-type]
        assert store.get("a", KEY) == {}
        store.put("a", [(KEY, 0, SequenceSum(1.0, 1))])
        assert len(store.get("a", KEY)) == 1


def filled(tmp_path):
    with open_store(tmp_path) as store:
        store.put(
            "a", [(Request("nll", "drop", layer), row, SequenceSum(1.0, 1)) for layer in range(50) for row in range(50)]
        )
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def test_damaged_files_are_named(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    assert len(whole) > 40_000
    for damaged in (b"no database at all" * 100, whole[:9000], whole[:8192] + os.urandom(8192) + whole[16384:]):
        path.write_bytes(damaged)
        with pytest.raises(LbdslError, match="damaged") as caught:
            open_store(tmp_path)
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "LB448"
        assert f"rm {path}" in diagnostic.help[0]
    path.write_bytes(whole)
    with open_store(tmp_path) as store:
        assert len(store.get("a", KEY)) == 50


def test_another_version_is_named(tmp_path):
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LbdslError, match="format 99") as caught:
        Store(path)
    assert caught.value.diagnostics[0].code == "LB448"


def test_unusable_places_are_coded_errors(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / FILE_NAME).mkdir()
    for folder in (tmp_path / "file", tmp_path):
        with pytest.raises(LbdslError) as caught:
            open_store(folder)
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.code == "LB448"
        assert "--cache-dir" in diagnostic.help[0]


def test_a_claim_ends_with_its_process_though_another_has_its_number(tmp_path):
    other = psutil.Process(os.getppid())
    with open_store(tmp_path) as store:
        for since, mine in ((time.time(), False), (other.create_time() - 60, True)):
            row = ("work", platform.node(), other.pid, since + CLAIM_SECONDS)
            store._connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", row)
            with store.claimed("work") as claimed:
                assert claimed == mine


def test_fingerprint_follows_everything_that_matters():
    versions = {"torch": "2.9", "transformers": "5.1.0"}
    texts = {"model": "m", "blocks": "b", "saved": "bfloat16", "dtype": "bfloat16", "device": "cuda:0"}
    base = fingerprint(**texts, versions=versions)
    assert fingerprint(**texts | {"device": "cuda:1"}, versions=versions) == base
    changed = [fingerprint(**texts | {name: "other"}, versions=versions) for name in texts]
    changed += [fingerprint(**texts, versions=versions | {name: "0.1"}) for name in versions]
    assert len({base, *changed}) == 8


@pytest.mark.parametrize("gguf", [False, True])
def test_versions_that_numbers_depend_on(gguf, monkeypatch):
    """A patch release of torch changes none; transformers converts GGUF files."""
    installed = {"torch": "2.9.1+cu128", "transformers": "5.1.0"}
    monkeypatch.setattr(fingerprints, "version", installed.__getitem__)
    found = versions_of(gguf=gguf)
    assert found == {"torch": "2.9", **({"transformers": "5.1.0"} if gguf else {})}
    for name, other, same in (("torch", "2.9.2", True), ("torch", "2.10.0", False), ("transformers", "5.1.1", not gguf)):
        with monkeypatch.context() as patched:
            patched.setitem(installed, name, other)
            assert (versions_of(gguf=gguf) == found) == same


PLUG_INS = {
    "signs": """
from lbdsl.plugins import LogitsMetric, Unit
class Signs(LogitsMetric):
    kind = "signs"
    unit = Unit.NATS
    per_token = staticmethod(lambda base_logp_NV, changed_logp_NV, target_N: target_N.double())
""",
    "means": """
from typing import Literal
from lbdsl.statistics import Statistic
class Means(Statistic):
    kind: Literal["means"] = "means"
    def watched(self, layer, model): return ()
    def value(self, seen): return None
""",
}


def test_files_of_plug_ins_are_among_them(tmp_path, monkeypatch):
    """Of an action with a part, its runtime file, a metric and a statistic; as they were when they were found."""
    for name, text in PLUG_INS.items():
        (tmp_path / f"{name}.py").write_text(text)
    for path in (Path(__file__).parents[2] / "examples" / "meanpool").glob("*.py"):
        shutil.copy(path, tmp_path)
    found_here = [str(tmp_path / f"{name}.py") for name in ("meanpool", *PLUG_INS)]
    monkeypatch.setenv("LBDSL_PLUGINS", os.pathsep.join(found_here))
    for kinds in (fingerprints.actions, fingerprints.parts, fingerprints.metrics, fingerprints.statistics):
        monkeypatch.setattr(fingerprints, kinds.__name__, cache(kinds.__wrapped__))
    try:
        found = {name: was for name, was in versions_of(gguf=False).items() if name.startswith("plug-in ")}
        assert found == {f"plug-in {path.stem}": digest_file(path) for path in tmp_path.glob("*.py")}
        assert len(found) == 4
        # This process goes on with the file that it has read.
        (tmp_path / "signs.py").write_text("")
        assert versions_of(gguf=False).items() >= found.items()
    finally:
        for name in ("meanpool", *PLUG_INS):
            del sys.modules[f"lbdsl_plugin_{name}"]
