"""Median wall time of `lbdsl check` on a recipe of 100 lines, whole process: `python benchmarks/check_speed.py [RUNS]`.

The goal is 200 ms on a warm machine. Prints; writes nothing and judges nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def recipe(lines: int = 100) -> str:
    """A recipe of so many lines that uses most of the language."""
    text = ['recipe "speed"', "param $window: tokens in 64..8Ki = 256", "group @core = first 2, last 1",
            "layers @core keep", "heal { tokens = 200k; loss = kl + 0.1 * hidden }", "assert kv(32Ki) <= 50%"]
    for number in range(lines - len(text) - 1):
        text.append(f"layers {3 * number}-{3 * number + 2} where nll < 0.{number + 1} and kl(swa(window=$window)) < 0.2"
                    f' swa(window={64 + number}, sinks=4) because "rule {number}"')
    return "\n".join([*text, "else keep"]) + "\n"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "speed.lbr")
        file.write_text(recipe(), encoding="utf-8")
        times = []
        for run in range(runs + 2):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "lbdsl", "check", str(file)], cwd=ROOT, check=True,
                           capture_output=True)
            if run >= 2:
                times.append(1000 * (time.perf_counter() - start))
    print(f"lbdsl check, 100 lines, {runs} runs: median {statistics.median(times):.0f} ms, "
          f"fastest {min(times):.0f} ms, slowest {max(times):.0f} ms")


if __name__ == "__main__":
    main()
