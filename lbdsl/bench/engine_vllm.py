"""`bench --engine vllm`: the base and an export of the artifact, many requests at once: offline throughput, or the
latency of a server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from lbdsl.artifact.record import Record
from lbdsl.bench.cells import Cell, Measured
from lbdsl.bench.contexts import Predicted, request_cells
from lbdsl.bench.engine import EnginePython, Ready, check_free, export_kind, exported, loaded, said_by, served_base
from lbdsl.bench.environments import clean_environment, engines_folder
from lbdsl.bench.worker import Worker
from lbdsl.core.cache import ENGINES
from lbdsl.core.diagnostic import fail
from lbdsl.export import exporters
from lbdsl.export.reasons import cache_words
from lbdsl.session.exporting import artifact_subject
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import VLLM

PLUGIN_FORMAT = "vllm"
SHARE = "--gpu-memory-utilization"
CACHE_GIB = 4
"""GiB for keys and values on a CPU, of each model: vLLM's own default there."""


@dataclass(frozen=True)
class Requests:
    """`concurrency` requests at once, of `lengths`: (tokens of the prompt, tokens written), in `pairs` runs of both models
    by turns. `served`: to a server, timed by vLLM's benchmark client (seconds to the first token and between tokens),
    instead of offline."""

    concurrency: Sequence[int] = (50,)
    lengths: Sequence[tuple[int, int]] = ((1024, 256),)
    pairs: int = 5
    engine: EnginePython = field(default_factory=EnginePython)
    served: bool = False
    QUANTIZED: ClassVar[Mapping[str, str]] = {"8-bit weights and activations": "layers all quantize(bits=8, activations=8)"}
    ON_GPUS: ClassVar[Mapping[str, str]] = {
        "8-bit floats": "layers all quantize(form=fp8)",
        "cache of 8-bit floats": "layers all cache(fp8)",
    }
    """In place of `QUANTIZED`."""

    def check(self, base: OpenModel) -> Ready:
        """Raises LB324, LB486 and LB487."""
        if self._longest > base.facts.positions:
            message = f"{self._longest} tokens are more than the {base.facts.positions} positions of the model"
            raise fail("LB324", message, help="name shorter --lengths")
        ready = self.engine.found(VLLM, base)
        weights = 2 * base.computed.params * base.computed.dtype_bytes
        if ready.gpus is not None:
            # Spread over as many as the engine is told to use, which are at least one.
            check_free(
                base, weights // ready.gpus.count, "the weights of both models", "use more GPUs", 0.9, ready.gpus.free
            )
            return ready
        what = f"both models, with {CACHE_GIB} GiB for keys and values each,"
        check_free(base, weights + 2 * CACHE_GIB * 2**30, what, "use a machine with more memory")
        return ready

    @property
    def _longest(self) -> int:
        return max(read + written for read, written in self.lengths)

    def for_profile(self, _bench: OpenModel) -> tuple[Requests, int]:
        """The same with at least three lengths, so that its cells decide a profile; and the size of windows to time."""
        read, written = self.lengths[0]
        more = ((read, max(1, written // 4)), (max(1, read // 2), written)) if len(self.lengths) == 1 else ()
        lengths = (*self.lengths, *more)
        return replace(self, lengths=lengths), max(1, min(read for read, _ in lengths) // 2)

    def measure(self, base: OpenModel, folder: Path, record: Record, stack: ExitStack) -> tuple[Measured, Iterator[Cell]]:
        """Tokens written per second, over whole runs; `stack` ends the engine's processes. Raises LB324 for lengths beyond
        the model's positions, LB487 without vLLM, LB488 if it fails, LB486 if memory does not hold both models, and the
        errors of the exports where vLLM cannot serve the artifact."""
        ready = self.check(base)
        kind, told = _served(ready, base, folder, record, stack)
        arguments = [*self._share(ready), *self.engine.arguments]
        job = {
            "dtype": base.computed.dtype,
            "max_model_len": self._longest,
            "max_num_seqs": max(self.concurrency),
            "trust_remote_code": False,
            "arguments": arguments,
        }
        of_artifact = {**job, **told, "arguments": [*arguments, *told["arguments"]]}
        jobs = ({**job, "model": str(served_base(base, Path(told["model"]).parent))}, of_artifact)
        script = Path(__file__).parent / "workers" / ("vllm_served.py" if self.served else "vllm_throughput.py")
        on_gpus = ready.gpus is not None
        command = [str(ready.python), str(script)]
        settings = _settings(base, None if on_gpus else arguments)
        workers, said = loaded(VLLM, command, jobs, base, stack, gpus=on_gpus, **settings)
        machine: dict[str, Any] = {} if ready.gpus is None else ready.gpus.machine
        if self.engine.arguments:
            machine["arguments"] = without_secrets(self.engine.arguments)
        threads = said.get("threads")
        predicted = Predicted.of(base, record, VLLM, said["version"], machine, threads)
        found = Measured(VLLM, said["version"], threads, kind, self.served, machine=machine)
        return found, self._cells(workers, base, predicted)

    def _share(self, ready: Ready) -> list[str]:
        """Both models are in memory at once, each with its cache."""
        told = any(word.partition("=")[0] == SHARE for word in self.engine.arguments)
        return [] if ready.gpus is None or told else [SHARE, "0.45"]

    def _cells(self, workers: Sequence[Worker], base: OpenModel, predicted: Predicted) -> Iterator[Cell]:
        with base.progress.stage("timing both models by turns in vLLM") as report:
            for cell in request_cells([partial(_figures, worker) for worker in workers], self, report):
                known = {} if self.served else predicted.throughput(cell.context, cell.output or 0, cell.batch)
                yield replace(cell, **known)


def _served(ready: Ready, base: OpenModel, folder: Path, record: Record, stack: ExitStack) -> tuple[str, dict[str, Any]]:
    """The kind of export by which vLLM serves an artifact, which ends with `stack`, and what a job says of it."""
    capability = 0.0 if ready.gpus is None else float(ready.gpus.capability)
    subject = replace(artifact_subject(folder, record), capability=capability)
    kind = export_kind(subject, VLLM, last=PLUGIN_FORMAT)
    if kind == PLUGIN_FORMAT:
        _check_plugin(ready.python)
    words = cache_words(subject, exporters()[kind].layers(subject))
    # Only that export has code of its own.
    return kind, {
        "model": str(exported(folder, record, kind, base, stack)),
        "trust_remote_code": kind == "decilm",
        "arguments": words,
    }


def log_probs_in_vllm(
    ids: Sequence[int],
    dtype: str,
    engine: EnginePython,
    base: OpenModel,
    folder: Path,
    record: Record,
    stack: ExitStack,
) -> tuple[str, list[float]]:
    """The kind of export by which vLLM serves an artifact, and the log-probabilities there of each token of `ids` after
    those before it, in nats. Raises LB487 without vLLM, LB488 if it fails, and the errors of the exports."""
    ready = engine.found(VLLM, base)
    kind, told = _served(ready, base, folder, record, stack)
    told["arguments"] = [*Requests(engine=engine)._share(ready), *told["arguments"], *engine.arguments]
    job = {"dtype": dtype, "max_model_len": len(ids) + 1, "max_num_seqs": 1, **told}
    command = [str(ready.python), str(Path(__file__).parent / "workers" / "vllm_throughput.py")]
    on_gpus = ready.gpus is not None
    environment = clean_environment(gpus=on_gpus, **_settings(base, None if on_gpus else told["arguments"]))
    base.release()
    with base.progress.stage("reading in vLLM"), Worker(VLLM, command, job, environment) as worker:
        worker.ready()
        return kind, worker.ask({"ids": list(ids)})["log_probs"]


def _figures(worker: Worker, requests: int, read: int, written: int) -> dict[str, float]:
    """Tokens written per second; of a server, what its client said."""
    found = worker.ask({"requests": requests, "input": read, "output": written})
    return {"throughput": found["written"] / found["seconds"]} if "written" in found else found


def without_secrets(words: Sequence[str]) -> list[str]:
    """The arguments without the values of those that name a key or a token: they are kept where others may read them."""
    found: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        secret = found and SECRET.search(found[-1]) and "=" not in found[-1] and not word.startswith("--")
        found.append("..." if secret else f"{name}=..." if equals and SECRET.search(name) else word)
    return found


SECRET = re.compile(r"^--.*(?:key|token$|password)")


BIND = "VLLM_CPU_OMP_THREADS_BIND"
FEW_CORES = 4
"""Up to so many logical CPUs are all computed on. Left to itself vLLM takes one of each core, and keeps one core free."""
PARALLEL = re.compile(r"--(tensor|pipeline|data)-parallel-size|-(tp|pp|dp)\b")


def cores_bound(arguments: Sequence[str]) -> str | None:
    """Which CPUs a worker of vLLM is to compute on; None where that is left to vLLM: where there are many, where the
    environment says it, and where `arguments` ask for several workers, each with CPUs of its own."""
    told = BIND in os.environ or "VLLM_CPU_NUM_OF_RESERVED_CPU" in os.environ
    if told or any(PARALLEL.match(word) for word in arguments) or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores)) if len(cores) <= FEW_CORES else None


def _settings(base: OpenModel, arguments: Sequence[str] | None) -> dict[str, str]:
    """For vLLM's environment. `arguments`: its own, on a CPU."""
    bound = None if arguments is None else cores_bound(arguments)
    if bound is not None:
        base.progress.say(f"vLLM computes on all CPUs: {BIND}={bound} (by itself it keeps one core free)")
    return {
        **({} if bound is None else {BIND: bound}),
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        # Otherwise vLLM waits in a process of its own, which takes time from the other model's.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # vLLM's own client asks its server.
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HF_HOME": str(ENGINES.path(engines_folder(), "hf-home")),
    }


def _check_plugin(python: Path) -> None:
    """Raise LB487 unless that Python has lbdsl's plug-in for vLLM."""
    asks = "from importlib.metadata import entry_points as all; print(*(p.name for p in all(group='vllm.general_plugins')))"
    if "lbdsl" not in said_by(python, asks).split():
        message = f"vLLM serves this artifact with lbdsl's plug-in, and {python} does not have it"
        raise fail("LB487", message, help=f"in a checkout of lbdsl: {python} -m pip install --no-deps .")
