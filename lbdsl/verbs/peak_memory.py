"""The memory of one model, in a process of its own: `python -m lbdsl.verbs.peak_memory JOB FD`.

JOB is {"model", "options", "context", "batch"}, with `RunOptions` as JSON; one line of JSON, {"bytes"}, goes to FD.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import lbdsl
from lbdsl.bench.worker import Worker
from lbdsl.model.source import is_artifact
from lbdsl.verbs.options import RunOptions
from lbdsl.verbs.workbench import Workbench


def peak_alone(model: Path, options: RunOptions, context: int, batch: int) -> float:
    """Bytes at the peak of reading a prompt and decoding from it, the weights included. Raises LB486 and LB488."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    job = {"model": str(model), "options": plain, "context": context, "batch": batch}
    # The same lbdsl, and nothing from the working directory.
    path = os.pathsep.join([str(Path(lbdsl.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", __name__]
    with Worker("transformers", command, job, {**os.environ, "PYTHONPATH": path}) as alone:
        return float(alone.ready()["bytes"])


def _measure(model: str, options: dict[str, Any], context: int, batch: int) -> int:
    from lbdsl.bench.in_transformers import TimedModel
    from lbdsl.bench.memory import Peak

    cache_dir = options["cache_dir"] and Path(options["cache_dir"])
    bench = Workbench(model, RunOptions(**{**options, "cache_dir": cache_dir}))
    peak = Peak(bench.device)
    loaded = stock_model(bench)
    peak.reset()
    timed = TimedModel(loaded, bench.facts.vocab, steps=1)
    timed.prepare(context, batch)
    timed.write()
    return peak.bytes


def stock_model(bench: Workbench) -> Any:
    """An artifact as it is, another model as transformers has it; in the dtype that this device computes in."""
    from lbdsl.model.computing import cast_weights

    if is_artifact(bench.source):
        return bench.base
    return cast_weights(bench.load_stock(), bench.computed.dtype).eval()


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as answers:
        print(json.dumps({"bytes": _measure(**json.loads(sys.argv[1]))}), file=answers)
