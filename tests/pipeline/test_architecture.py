"""docs/architecture.md: its recipe runs, and every call that its tables show is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clean_process import CleanProcess
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?P<number>\d+) \| `(?P<file>[^`]+)` \| `(?P<function>[^`]+)` \| ?(?P<caller>\d*) \|", re.MULTILINE)
SCRIPT = """
import json, sys
calls = {}
HELPERS = ("/lbdsl/recipe/scope.py", "/lbdsl/core/")

def profile(frame, event, _):
    file = frame.f_code.co_filename
    if event != "call" or "/lbdsl/" not in file:
        return
    callers = calls.setdefault(f"{file} {frame.f_code.co_qualname}", set())
    while (frame := frame.f_back) is not None:
        caller = frame.f_code.co_filename
        if "/lbdsl/" in caller and caller != file and not any(helper in caller for helper in HELPERS):
            callers.add(caller)
            return

from lbdsl.cli.app import main
out, arguments = sys.argv[1], sys.argv[2:]
sys.setprofile(profile)
try:
    main(arguments)
finally:
    sys.setprofile(None)
    with open(out, "w") as file:
        json.dump({call: sorted(callers) for call, callers in calls.items()}, file)
"""


def test_every_call_of_the_page_is_made(
    tmp_path: Path, new_cache: Callable[[Path], Path], clean_process: CleanProcess
) -> None:
    rows = {row["number"]: row for row in ROW.finditer(PAGE)}
    assert list(rows) == [str(number) for number in range(1, len(rows) + 1)]
    assert 20 < len(rows) <= 25
    recipe = re.search(r"```lbr\n(.*?)```", PAGE, re.DOTALL)
    assert recipe is not None
    short = "tokens = 256; seq = 64"
    text = recipe[1].replace("lowest 8", "lowest 3").replace("eval { ", f"eval {{ {short}; ")
    (tmp_path / "shared.lbr").write_text(f"measure {{ {short} }}\n{text}")
    model = save_tiny_model(tmp_path / "model")
    command = ["apply", str(tmp_path / "shared.lbr"), str(model), "-o", str(tmp_path / "out"), "--yes"]
    command += ["--cache-dir", str(new_cache(tmp_path / "cache"))]
    done = clean_process.run(SCRIPT, tmp_path / "calls.json", *command, cwd=ROOT)
    assert (tmp_path / "out" / "lbdsl.json").is_file(), done.stderr[-3000:]
    calls = {tuple(call.split()): callers for call, callers in json.loads((tmp_path / "calls.json").read_text()).items()}
    first = list(calls)
    missing, places = [], []
    for row in rows.values():
        callers = calls.get((str(ROOT / row["file"]), row["function"]))
        caller = str(ROOT / rows[row["caller"]]["file"]) if row["caller"] else None
        if callers is None or (caller is not None and caller not in callers):
            missing.append(row[0])
        else:
            places.append(first.index((str(ROOT / row["file"]), row["function"])))
    assert missing == []
    assert places == sorted(places), [
        row[0] for row, at, then in zip(rows.values(), places, places[1:], strict=False) if then < at
    ]
