"""Compute result tables row by row: `python -m benchmarks.table NAME [--list] [--rows PATTERN] [--redo] [--markdown]`.

benchmarks/tables/NAME.py has a `TABLE`. Each finished row is a file benchmarks/results/NAME/KEY.json and is not run again:
after Ctrl-C, a kill or a failed row, the same command resumes. `python -m benchmarks.table --check` holds all rows against
the pages and the history (benchmarks/check.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

from lbdsl.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "benchmarks"
WORK = ROOT / "build" / "tables"
MINUTES = "minutes to make"
"""A column that any table can have: how long the row ran."""
KEY = re.compile(r"\w[\w.,=+-]*")
Figures = Mapping[str, Any]
Stamp = Mapping[str, Any]
"""When, on which machine and by which versions something was computed."""

CHANGING = "lbdsl/actions", "lbdsl/layer", "lbdsl/measure", "lbdsl/model", "lbdsl/parts", "lbdsl/run", "lbdsl/statistics"
JUDGING = "lbdsl/data", "lbdsl/evaluate", "lbdsl/metrics"
HEALING = (*CHANGING, *JUDGING, "lbdsl/heal")
CHOOSING = "lbdsl/solve", "lbdsl/session"
SERVING = "lbdsl/bench", "lbdsl/export"
"""Code of lbdsl that figures depend on."""


@dataclass(frozen=True)
class Row:
    """`run` returns the row's figures, given the table's work folder, which can keep files for other rows (`once`)."""

    key: str
    run: Callable[[Path], Figures]

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key):
            raise ValueError(f"{self.key!r} cannot be a file's name")


@dataclass(frozen=True)
class Table:
    """`columns` maps names of figures to their formats, such as {"loss": ".3f"}; a row need not have all of them.
    `measures`: the files and folders of lbdsl on which the figures depend."""

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    measures: Sequence[str] = HEALING

    def __post_init__(self) -> None:
        keys = [row.key for row in self.rows]
        if len(keys) != len(set(keys)):
            raise ValueError("two rows have one key")


_used: list[list[Stamp]] = []
"""Stamps of what each row or file that is being made has used so far, the innermost last."""


@contextmanager
def _using() -> Iterator[list[Stamp]]:
    _used.append([])
    try:
        yield _used[-1]
    finally:
        _used.pop()


def stamp_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.stamps.json")


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """`path`, created by `make(PATH)` if it does not exist; created under a temporary name, so it is never partial.

    A file beside it has the stamps of what computed it; a row that uses it carries them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part, kept = path.with_name(path.name + ".part"), stamp_file(path)
        # Of a run that was stopped, which `make` may resume.
        begun = [*(json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else ()), stamp()]
        kept.write_text(json.dumps(begun), encoding="utf-8")
        with _using() as used:
            make(part)
        kept.write_text(json.dumps([*begun, *used]), encoding="utf-8")
        part.rename(path)
    return uses(path)


def uses(path: Path) -> Path:
    """`path`, made by `once`, in this row or another: the row under way carries its stamps."""
    if not (path.exists() and stamp_file(path).is_file()):
        raise RuntimeError(
            f"{path} is missing, or which commit made it is not known: run the row that makes it with --redo"
        )
    if _used:
        _used[-1] += json.loads(stamp_file(path).read_text(encoding="utf-8"))
    return path


def forget(work: Path, key: str, keys: Iterable[str]) -> None:
    """Remove what a row has made in its work folder, which is called by its key."""
    longer = tuple(other for other in keys if other != key and other.startswith(key))
    for path in work.iterdir() if work.is_dir() else ():
        if path.name.startswith(key) and not path.name.startswith(longer):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else None
    return {
        "cpu": (found[1] if found else platform.processor()) + _vectors(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _vectors() -> str:
    """The widest vectors of a CPU that Linux describes: two of one name may differ in them."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}
    return next((f" ({name})" for flag, name in names.items() if flag in flags), "")


def git(*words: str) -> str:
    """What git says of this checkout; nothing where there is no git, or it fails."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def versions() -> dict[str, Any]:
    """Versions of Python, libraries and lbdsl. `dirty`: there were uncommitted changes outside benchmarks/results."""
    libraries = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {
        "python": platform.python_version(),
        **libraries,
        "lbdsl": VERSION,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
    }


def stamp() -> Stamp:
    return {"started": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "versions": versions()}


def run_row(name: str, row: Row, path: Path, work: Path) -> dict[str, Any]:
    """Run one row and write its file atomically. `used`: stamps of what it read that other commits, or other machines, had
    computed, the first of each."""
    work.mkdir(parents=True, exist_ok=True)
    own, start = stamp(), time.perf_counter()
    with _using() as used:
        figures = row.run(work)
    seconds = round(time.perf_counter() - start, 3)
    others = {_by(each): each for each in sorted(used, key=lambda each: each["started"], reverse=True)}
    others.pop(_by(own), None)
    command = f"python -m benchmarks.table {name} --rows {row.key}"
    done = {"key": row.key, "figures": dict(figures), "command": command, "seconds": seconds, **own}
    done["used"] = list(others.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    return done


def _by(stamp: Stamp) -> str:
    return json.dumps([stamp["machine"], stamp["versions"]])


def names() -> list[str]:
    return sorted(path.stem for path in (HOME / "tables").glob("[!_]*.py"))


def table_of(name: str) -> Table:
    table: Table = runpy.run_path(str(HOME / "tables" / f"{name}.py"))["TABLE"]
    return table


def rows_of(name: str) -> dict[str, dict[str, Any]]:
    """The finished rows of a table, by key."""
    files = sorted((HOME / "results" / name).glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def lines(table: Table, done: Mapping[str, Mapping[str, Any]], markdown: bool) -> Iterator[str]:
    """Yield the finished rows as lines of text, in the table's order, without columns that none of them has."""
    finished = [done[row.key] for row in table.rows if row.key in done]
    rows = {row["key"]: {MINUTES: row["seconds"] / 60, **row["figures"]} for row in finished}
    columns = {name: form for name, form in table.columns.items() if not rows or any(name in row for row in rows.values())}
    cells = [["", *columns]]
    for key, figures in rows.items():
        shown = (format(figures[name], form) if name in figures else "" for name, form in columns.items())
        cells.append([key, *shown])
    if markdown:
        cells.insert(1, ["---", *("---:" for _ in columns)])
        yield from (f"| {' | '.join(line)} |" for line in cells)
        return
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield table.title
    for key, *rest in cells:
        padded = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield "  ".join([key.ljust(widths[0]), *padded]).rstrip()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description="Make a table; a stop loses one row.")
    parser.add_argument("name", nargs="?", choices=names())
    parser.add_argument("--check", action="store_true", help="hold all rows against pages, history and code; run nothing")
    parser.add_argument("--list", action="store_true", help="say which rows are done, and run nothing")
    parser.add_argument("--rows", metavar="PATTERN", default="*", help="only rows whose keys match, such as 'window-*'")
    parser.add_argument("--redo", action="store_true", help="first forget these rows' figures, and what they made")
    parser.add_argument("--markdown", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.check:
        from benchmarks.check import check

        return check()
    if not asked.name:
        parser.error("which table? (or --check)")
    table = table_of(asked.name)
    files = {row.key: HOME / "results" / asked.name / f"{row.key}.json" for row in table.rows}
    rows = [row for row in table.rows if fnmatchcase(row.key, asked.rows)]
    if asked.list:
        print("".join(f"{'done' if files[row.key].exists() else '-':6}{row.key}\n" for row in rows), end="")
        return 0
    if asked.redo:
        for row in rows:
            files[row.key].unlink(missing_ok=True)
            forget(WORK / asked.name, row.key, files)
    done = {key: json.loads(path.read_text(encoding="utf-8")) for key, path in files.items() if path.exists()}
    todo = [row for row in rows if row.key not in done]
    failed = []
    for place, row in enumerate(todo):
        took = [value["seconds"] for value in done.values()]
        left = f", about {sum(took) / len(took) * (len(todo) - place) / 60:.1f} min left" if took else ""
        say(f"[{len(rows) - len(todo) + place + 1}/{len(rows)}] {row.key}{left}")
        try:
            done[row.key] = run_row(asked.name, row, files[row.key], WORK / asked.name)
        except KeyboardInterrupt:
            say(f"stopped in {row.key}; the same command goes on{' without --redo' if asked.redo else ''}")
            return 130
        except Exception:
            traceback.print_exc()
            failed.append(row.key)
    print("\n".join(lines(table, done, asked.markdown)))
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    # Not the `main` of this copy of the module: tables import `once` from the other.
    from benchmarks import table

    sys.exit(table.main())
