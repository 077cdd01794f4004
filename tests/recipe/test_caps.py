"""Hostile recipes, each in a process of its own: a coded answer, soon, and in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.large

ROOT = Path(__file__).parents[2]

MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
from lbdsl.recipe.load import recipe_from_text

def peak_kib():
    # getrusage counts what the process was before it started this program, that is the tests' own process, too.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

recipe_from_text("layers 0-3 keep; else swa(window=64)")

def measure(text):
    before = peak_kib()
    start = time.process_time()
    found = recipe_from_text(text, "hostile.lbr").diagnostics
    spent = time.process_time() - start
    peak = peak_kib()
    return {"codes": sorted({d.code for d in found if d.is_error}), "count": len(found), "seconds": spent,
            "peak": peak * 1024, "grown": (peak - before) * 1024}

# A process for each text: a peak never falls.
for line in sys.stdin:
    child = os.fork()
    if not child:
        print(json.dumps(measure(json.loads(line))), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def measured() -> Iterator[Callable[[str], dict[str, Any]]]:
    """What checking a text finds and costs, in a process of its own that holds nothing but lbdsl."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE], stdin=pipe, stdout=pipe, text=True, bufsize=1, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def of(text: str) -> dict[str, Any]:
            process.stdin.write(json.dumps(text) + "\n")
            return json.loads(process.stdout.readline())

        yield of


HOSTILE = {
    "1000 parentheses": ("layers " + "(" * 1000 + "0" + ")" * 1000 + " keep", ["LB005"]),
    "1000 open parentheses": ("layers " + "(" * 1000, ["LB005"]),
    "1000 brackets in an expression": ("let $a = " + "[" * 1000 + "]" * 1000, ["LB005"]),
    "nested calls": ("else " + "f(" * 1000 + ")" * 1000, ["LB005"]),
    "500 not": ("where " + "not " * 500 + "nll < 1 drop", ["LB005"]),
    "500 minus": ("let $a = " + "-" * 500 + "1\nlayers $a keep", ["LB005"]),
    "not in parentheses": ("where " + "not (" * 500 + "nll < 1" + ")" * 500 + " drop", ["LB005"]),
    "10000 digits": ("layers " + "9" * 10_000 + " keep", ["LB006"]),
    "10000 decimal digits": ("let $a = 0." + "9" * 10_000, ["LB006"]),
    "10000 digits in a range": ("layers 0-" + "9" * 10_000 + " keep", ["LB006"]),
    "huge exponent": ("let $a = 1e999999999", ["LB121"]),
    "a large range": ("layers 0-999999999 keep\nelse keep", []),
    "many large ranges": ("layers " + ", ".join(f"{i}-99999999{i % 10}" for i in range(1000)) + " keep\nelse keep", []),
    "catastrophic pattern": ('requires model.family matches ~"(\\w+\\.?)+$!"\nelse keep', []),
    "large repetition": ('requires model.family matches ~"((a{1000}){1000}){1000}"\nelse keep', ["LB122"]),
    "long pattern": ('requires model.family matches ~"' + "(a|b)*" * 20_000 + '"\nelse keep', []),
    "glob of stars": ('modules "' + "*" * 5000 + '" in layers 0 quantize(bits=4)', None),
    "a long name": ("x" * 100_000 + " 3 keep", ["LB001"]),
    "a long unknown action": ("else " + "x" * 100_000, ["LB101"]),
    "a long unknown key": ("heal { " + "x" * 100_000 + " = 3 }", ["LB114"]),
    "a long string": ('recipe "' + "x" * 1_000_000 + '"\nelse keep', []),
    "a string never closed": ('recipe "' + "x" * 1_000_000, ["LB004"]),
    "comparison chain": ("assert " + " < ".join(["1"] * 10_000), None),
    "long sum": ("let $a = " + " + ".join(["1"] * 2_000) + "\nlayers $a keep\nelse keep", []),
    "group bomb": (
        "group @g0 = 0, 2\n" + "".join(f"group @g{i + 1} = @g{i}, @g{i}\n" for i in range(60)) + "layers @g60 keep",
        ["LB212"],
    ),
    "list bomb": (
        "let $a0 = [1, 1]\n" + "".join(f"let $a{i + 1} = [$a{i}, $a{i}]\n" for i in range(30)) + "else keep",
        None,
    ),
    "growing constants": (
        "let $a0 = 99999999999\n" + "".join(f"let $a{i + 1} = $a{i} * $a{i}\n" for i in range(60)),
        ["LB121"],
    ),
    "an include out of the folder": ('include "../../etc/passwd"', ["LB126"]),
    "an absolute include": ('include "/etc/passwd"', ["LB126"]),
    "NUL bytes": ("\0" * 1000, ["LB008"]),
    "bad signs": ("?!" * 2000, None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_coded_answer_soon_and_in_little_memory(name: str, measured: Callable[[str], dict[str, Any]]) -> None:
    """The bounds are 200 ms and 100 MB; a busy machine gets five times the time, and the interpreter's own 60 MB."""
    text, wanted = HOSTILE[name]
    got = measured(text)
    if wanted is not None:
        assert got["codes"] == wanted
    assert got["seconds"] < 1.0
    assert got["peak"] < 160e6
    assert got["grown"] < 100e6


def test_a_misspelt_word_on_every_line_takes_linear_time(measured: Callable[[str], dict[str, Any]]) -> None:
    text = "layers 0-3 exept 2 keep\nwhere sensitvity < 0.1 drop\nlayres 3 drop\n" * 100
    got = measured(text)
    assert got["count"] >= 300
    assert got["seconds"] < 5
