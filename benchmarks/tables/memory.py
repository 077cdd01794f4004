"""Memory of healing SmolLM2, as `lbdsl plan --estimate` predicts it and as it is: LoRA, all weights, a cached teacher; one
process, two with the whole model each, two with a share of it each.

Needs `make model`. `GiB` is the most resident memory of a process in `lbdsl apply`, without judging; of two, the larger.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.table import ROOT, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

RULES = "layers 1-3, 8-16, 18-21 swa(window=256)"
METHODS = {"lora": "", "full": "method = full; lr = 1e-4", "cached": "teacher = cached"}
PROCESSES = {"one": 1, "two": 2, "two-shared": 2}
SHARED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
SIZES = {"2x512": "tokens = 4Ki; seq = 512; batch = 2", "2x2Ki": "tokens = 8Ki; seq = 2Ki; batch = 2"}
DRIVER = """
import atexit, os
from lbdsl.cli.app import main
def said():
    # Not `ru_maxrss`: a process inherits that of its parent.
    with open("/proc/self/status") as status, open(os.environ["PEAKS"], "a") as file:
        file.writelines(f"{int(line.split()[1]) * 1024}\\n" for line in status if line.startswith("VmHWM"))
atexit.register(said)
main()
"""


def peaks(work: Path, recipe: Path, held: str, out: Path) -> None:
    """The most resident bytes of each process of a run, a line each."""
    driver = work / "driver.py"
    driver.write_text(DRIVER)
    words = ["apply", str(recipe), MODEL, "-o", str(work / "out"), "--yes", "--force", "--quiet"]
    count = PROCESSES[held]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    environment = os.environ | {"PEAKS": str(out)} | (SHARED if held == "two-shared" else {})
    out.unlink(missing_ok=True)
    command = [sys.executable, *start, str(driver), *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def row(method: str, held: str, size: str) -> Row:
    key = f"{method}-{held}-{size}"

    def run(work: Path) -> dict[str, float]:
        work.mkdir(parents=True, exist_ok=True)
        recipe = work / f"{method}-{size}.lbr"
        heal = "; ".join(filter(None, ('data = "builtin:pydoc"', SIZES[size], METHODS[method])))
        recipe.write_text(f"lbr 1\n{RULES}\nheal {{ {heal} }}\n")
        measured = max(map(int, once(work / f"{key}.txt", lambda out: peaks(work, recipe, held, out)).read_text().split()))
        way = ("shared" if held == "two-shared" else "whole") + (", cached" if method == "cached" else "")
        words = ("plan", str(recipe), MODEL, "--estimate", f"{PROCESSES[held]}xcpu", "--json")
        predicted = json.loads(lbdsl(*words).stdout)["ways"][way]["device_bytes"]
        return {"GiB": measured / 2**30, "predicted": predicted / 2**30, "ratio": predicted / measured}

    return Row(key, run)


TABLE = Table(
    title="memory of healing SmolLM2 by process",
    columns={"GiB": ".2f", "predicted": ".2f", "ratio": ".2f"},
    rows=[
        *(row(method, held, "2x512") for held in ("one", "two") for method in METHODS),
        *(row(method, "two-shared", "2x512") for method in ("lora", "full")),
        row("lora", "one", "2x2Ki"),
    ],
    measures=("lbdsl/heal", "lbdsl/plan/memory.py", "lbdsl/plan/estimate.py"),
)
