"""Measure the front end's speed in whole processes: `python benchmarks/check_speed.py [RUNS]`.

Goals on a warm, idle machine: `lbdsl check` of 100 lines in 200 ms, of 10,000 lines in 3 s; `lbdsl --help` in 150 ms.
Prints median, fastest and slowest wall time, and the median CPU time; writes no files and checks no goals.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def recipe(lines: int = 100) -> str:
    """A recipe of `lines` lines that uses most of the language."""
    text = [
        'recipe "speed"',
        "param $window: tokens in 64..8Ki = 256",
        "group @core = first 2, last 1",
        "layers @core keep",
        "heal { tokens = 200k; loss = kl + 0.1 * hidden }",
        "assert kv(32Ki) <= 50%",
    ]
    for number in range(lines - len(text) - 1):
        rule = (
            f"layers {3 * number}-{3 * number + 2} where nll < 0.{number % 97 + 1} and kl(swa(window=$window)) < 0.2 "
            f'swa(window={64 + number % 900}, sinks=4) because "rule {number}"'
        )
        text.append(rule if number % 4 else f"layers {4 * number + 3} keep")
    return "\n".join([*text, "else keep"]) + "\n"


def measured(arguments: list[str], runs: int, bytecode: str) -> str:
    """Text with the times of `lbdsl ARGUMENTS` in milliseconds, after two runs that warm the caches, including the bytecode
    cache in the folder `bytecode`."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    walls, processors = [], []
    for run in range(runs + 2):
        before, start = os.times(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "lbdsl", *arguments], cwd=ROOT, check=True, capture_output=True, env=environment
        )
        wall, after = time.perf_counter() - start, os.times()
        if run >= 2:
            walls.append(1000 * wall)
            processors.append(
                1000 * (after.children_user + after.children_system - before.children_user - before.children_system)
            )
    return (
        f"median {statistics.median(walls):.0f} ms, fastest {min(walls):.0f} ms, slowest {max(walls):.0f} ms; "
        f"processor {statistics.median(processors):.0f} ms"
    )


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        for lines in (100, 10_000):
            file = Path(folder, f"{lines}.lbr")
            file.write_text(recipe(lines), encoding="utf-8")
            again = runs if lines == 100 else max(1, runs // 4)
            print(f"lbdsl check, {lines} lines: {measured(['check', str(file)], again, folder)}")
        print(f"lbdsl --help: {measured(['--help'], runs, folder)}")


if __name__ == "__main__":
    main()
