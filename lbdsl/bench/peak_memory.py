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

from pydantic import TypeAdapter

import lbdsl
from lbdsl.bench.worker import Worker
from lbdsl.model.source import is_artifact
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What resets the peak of a process's memory: proc(5)."""


def is_known(device: Any) -> bool:
    """Whether this machine tells the peak on a torch.device: Linux, or a GPU."""
    return device.type == "cuda" or CLEAR.exists()


@contextmanager
def model_alone(model: Path, options: RunOptions) -> Iterator[Callable[[int, int], float]]:
    """A process that holds the model: a function from context and batch to the bytes at the peak of reading a prompt and
    decoding from it, the weights included. What was freed may still count, so smaller ones are asked for first. Raises
    LB486 and LB488."""
    # No recipe is read there.
    needed = replace(options, allow_paths=(), allow_task_code=False)
    # The same lbdsl, and nothing from the working directory.
    path = os.pathsep.join([str(Path(lbdsl.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", __name__]
    job = {"model": str(model), "options": TypeAdapter(RunOptions).dump_python(needed, mode="json")}
    with Worker("transformers", command, job, {**os.environ, "PYTHONPATH": path}) as alone:
        alone.ready()
        yield lambda context, batch: float(alone.ask({"context": context, "batch": batch})["bytes"])


def _serve(model: str, options: dict[str, Any], answers: TextIO) -> None:
    import torch

    from lbdsl.bench.in_transformers import TimedModel

    bench = OpenModel(model, TypeAdapter(RunOptions).validate_python(options))
    on_gpu = bench.device.type == "cuda"
    before = 0 if on_gpu else _status("VmRSS")
    timed = TimedModel(stock_model(bench), bench.facts.vocab, steps=1)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(bench.device)
        else:
            CLEAR.write_text(RESET_PEAK)
        timed.prepare(**json.loads(line))
        timed.write()
        peak = torch.cuda.max_memory_allocated(bench.device) if on_gpu else _status("VmHWM") - before
        print(json.dumps({"bytes": peak}), file=answers, flush=True)


def _status(name: str) -> int:
    """Bytes of this process's memory."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def stock_model(bench: OpenModel) -> Any:
    """An artifact as it is, another model as transformers has it; in the dtype that this device computes in."""
    from lbdsl.model.computing import cast_weights

    if is_artifact(bench.source):
        return bench.base
    return cast_weights(bench.load_stock(), bench.computed.dtype).eval()


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as answers:
        _serve(**json.loads(sys.argv[1]), answers=answers)
