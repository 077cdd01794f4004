"""Measure the language server's response time after an edit in 200 lines: `python benchmarks/lsp_speed.py [RUNS]`.

It uses a real connection. The goal is 100 ms from an edit to its diagnostics. `plain` is a recipe with short rules, `dense`
one with long conditions. Prints the times; writes no files and checks no goals.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.editor.lsp_client import URI, Client, where

LINES = 200


def recipe(dense: bool) -> str:
    lines = ['recipe "speed"', "param $window: tokens in 64..8Ki = 256"]
    for number in range(LINES - 3):
        condition = f" where nll < 0.{number + 1} and kl(swa(window=$window)) < 0.2" if dense else ""
        reason = f' because "rule {number}"' if dense else ""
        lines.append(f"layers {number}{condition} swa(window={64 + number}){reason}")
    return "\n".join([*lines, "else keep"]) + "\n"


def measure(client: Client, text: str, runs: int) -> dict[str, list[float]]:
    """Milliseconds from the edit to each answer."""
    client.open(text)
    times: dict[str, list[float]] = {"completion": [], "hover": [], "findings": []}
    for version in range(2, runs + 2):
        start = time.perf_counter()
        client.tell(
            "textDocument/didChange",
            {
                "textDocument": {"uri": URI, "version": version},
                "contentChanges": [{"range": where(100, 7, 8 if version > 2 else 9), "text": str(version % 10)}],
            },
        )
        for feature in ("completion", "hover"):
            client.at(feature, 150, 9)
            times[feature].append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        client.edit(version + 10_000, {"range": where(100, 7, 8), "text": str((version + 1) % 10)})
        times["findings"].append(1000 * (time.perf_counter() - start))
    client.tell("textDocument/didClose", {"textDocument": {"uri": URI}})
    return times


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    client = Client()
    for name in ("plain", "dense"):
        for what, times in measure(client, recipe(name == "dense"), runs).items():
            print(
                f"{name}, {LINES} lines, {runs} edits, until {what}: median {statistics.median(times):.0f} ms, "
                f"fastest {min(times):.0f} ms, slowest {max(times):.0f} ms"
            )
    client.close()


if __name__ == "__main__":
    main()
