"""`python -O` takes `assert` statements away, and nothing that lbdsl promises with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_model import save_tiny_model

SCRIPT = """
import json, sys
from pathlib import Path
import lbdsl
from lbdsl.session.model import OpenModel
from lbdsl.core.diagnostic import LbdslError
from lbdsl.run.changes import apply_changes

assert False, "this is python -O"

def code_of(wrong):
    try:
        wrong()
    except LbdslError as problem:
        return problem.diagnostics[0].code
    return "nothing was refused"

planned = lbdsl.plan_recipe("x.lbr", "model")
more = planned.plan.after.model_copy(update={"params": planned.plan.after.params + 1})
other = planned.plan.model_copy(update={"after": more})
unchanged = planned.bench.fresh_copy()
unchanged.set_layer = lambda index, spec, made: None
found = {
    "parameters": code_of(lambda: apply_changes(planned.bench.fresh_copy(), other)),
    "layers": code_of(lambda: apply_changes(unchanged, planned.plan)),
}
lbdsl.apply_saved_plan(planned.save("x.lbplan"), chosen=lbdsl.ApplyOptions(output=Path("out")))
weights = Path("out/model.safetensors")
data = weights.read_bytes()
weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
found["weights"] = code_of(lambda: OpenModel("out").weights_folder)
found["base"] = code_of(lambda: OpenModel("out").base)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_wrong_results_and_damaged_artifacts_are_refused(tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "x.lbr").write_text("layers 2 swa(window=16)\n")
    done = subprocess.run(
        [sys.executable, "-O", "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "LBDSL_CACHE_DIR": str(new_cache(tmp_path / "cache")), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {"parameters": "LB475", "layers": "LB475", "weights": "LB465", "base": "LB465"}
