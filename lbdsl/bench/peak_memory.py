"""The memory of one model, in a process of its own: `python -m lbdsl.bench.peak_memory JOB FD`.

JOB is {"model", "options"}, with `RunOptions` as JSON. When the model is loaded, a line of JSON goes to FD; then each line
of standard input, {"context", "batch"}, is answered by {"bytes"}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import lbdsl
from lbdsl.bench.worker import Worker
from lbdsl.model.source import is_artifact
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions


@contextmanager
def model_alone(model: Path, options: RunOptions) -> Iterator[Callable[[int, int], float]]:
    """A process that holds the model: a function from context and batch to the bytes at the peak of reading a prompt and
    decoding from it, the weights included. What was freed may still count, so smaller ones are asked for first. Raises
    LB486 and LB488."""
    # No recipe is read there.
    needed = replace(options, allow_paths=(), allow_task_code=False)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(needed).items()}
    # The same lbdsl, and nothing from the working directory.
    path = os.pathsep.join([str(Path(lbdsl.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", __name__]
    job = {"model": str(model), "options": plain}
    with Worker("transformers", command, job, {**os.environ, "PYTHONPATH": path}) as alone:
        alone.ready()
        yield lambda context, batch: float(alone.ask({"context": context, "batch": batch})["bytes"])


def _serve(model: str, options: dict[str, Any], answers: TextIO) -> None:
    from lbdsl.bench.in_transformers import TimedModel
    from lbdsl.bench.memory import Peak

    cache_dir = options["cache_dir"] and Path(options["cache_dir"])
    bench = OpenModel(model, RunOptions(**{**options, "cache_dir": cache_dir}))
    peak = Peak(bench.device)
    timed = TimedModel(stock_model(bench), bench.facts.vocab, steps=1)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        peak.reset()
        timed.prepare(**json.loads(line))
        timed.write()
        print(json.dumps({"bytes": peak.bytes}), file=answers, flush=True)


def stock_model(bench: OpenModel) -> Any:
    """An artifact as it is, another model as transformers has it; in the dtype that this device computes in."""
    from lbdsl.model.computing import cast_weights

    if is_artifact(bench.source):
        return bench.base
    return cast_weights(bench.load_stock(), bench.computed.dtype).eval()


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as answers:
        _serve(**json.loads(sys.argv[1]), answers=answers)
