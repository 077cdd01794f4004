"""`bench --engine llamacpp`: GGUF files of the base and of the artifact in llama.cpp, by turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lbdsl.artifact.record import Record
from lbdsl.bench.cells import Cell, Measured
from lbdsl.bench.contexts import STEPS, Contexts, Predicted, context_cells
from lbdsl.bench.engine import EnginePython, check_free, export_kind, exported, loaded, served_base
from lbdsl.bench.worker import Worker
from lbdsl.core.units import plural
from lbdsl.export.base import subject_of
from lbdsl.export.gguf import FILE, write_model
from lbdsl.export.gguf_target import target_of
from lbdsl.model.config_file import read_json_object
from lbdsl.session.exporting import artifact_subject
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import base_config

LLAMA_CPP = "llamacpp"


@dataclass(frozen=True)
class InLlamaCpp(Contexts):
    """What to time in llama.cpp; see `Contexts`."""

    engine: EnginePython = field(default_factory=EnginePython)
    QUANTIZED = {"8-bit weights": "layers all quantize(bits=8)"}

    def check(self, base: OpenModel) -> Path:
        """The engine's Python. Raises LB324, LB486 and LB487."""
        contexts = self.lengths(base)
        python = self.engine.found(LLAMA_CPP, base).python
        # 16-bit caches of both models.
        needed = (
            2 * max(self.batches) * base.facts.cost.kv_bytes(max(contexts) + self.written) * 2 // base.facts.dtype_bytes
        )
        what = f"the caches of {plural(max(self.batches), 'sequence')} together"
        check_free(base, needed, what, "name shorter --contexts or smaller --batches")
        return python

    def measure(self, base: OpenModel, folder: Path, record: Record, stack: ExitStack) -> tuple[Measured, Iterator[Cell]]:
        """Prefill, decode and latency. Raises LB324 for a context that is longer than the model's positions, LB487 without
        llama.cpp, LB488 if it fails, and the errors of the export where it cannot serve the artifact."""
        import torch

        kind = export_kind(artifact_subject(folder, record), LLAMA_CPP)
        python = self.check(base)
        contexts = self.lengths(base)
        artifact = exported(folder, record, kind, base, stack)
        job = {
            "tokens": max(contexts) + self.written,
            "batch": max(self.batches),
            "threads": torch.get_num_threads(),
            "vocab": base.facts.vocab,
            "steps": STEPS,
        }
        files = (_base_file(base, artifact.parent), artifact / FILE)
        jobs = tuple({**job, "model": str(file)} for file in files)
        workers, said = loaded(LLAMA_CPP, [str(python), str(_SCRIPT)], jobs, base, stack)
        predicted = Predicted.of(base, record, LLAMA_CPP, said["version"])
        return Measured(LLAMA_CPP, said["version"], job["threads"], kind), self._cells(workers, contexts, base, predicted)

    def _cells(
        self, workers: Sequence[Worker], contexts: Sequence[int], base: OpenModel, predicted: Predicted
    ) -> Iterator[Cell]:
        models = _InWorker(workers[0]), _InWorker(workers[1])
        with base.progress.stage("timing both models by turns in llama.cpp") as report:
            yield from context_cells(models, contexts, self, predicted, report)


@dataclass(frozen=True)
class _InWorker:
    """A model of a worker; `lbdsl.bench.contexts.Timed`."""

    worker: Worker

    def read(self, context: int) -> float:
        return self._ask(read=context)

    def prepare(self, context: int, batch: int) -> float:
        self._ask(prepare=context, batch=batch)
        return 0.0

    def write(self) -> float:
        return self._ask()

    def _ask(self, **job: int) -> float:
        return self.worker.ask(job)["seconds"]


def _base_file(base: OpenModel, place: Path) -> Path:
    """The base as the exporter writes artifacts: the same numbers, and the base's own architecture."""
    folder = served_base(base, place)
    # Of a GGUF file, its dequantized copy has what the header of the file leaves to be read from it.
    config = {**read_json_object(folder / "config.json"), **base_config(base.source, base.facts)}
    target = target_of(subject_of(config, base.facts, base.facts.layer_specs)).unwrap()
    with base.progress.stage("writing the base for llama.cpp") as report:
        write_model(folder, target, place / FILE, progress=report)
    return place / FILE


_SCRIPT = Path(__file__).parent / "workers" / "llamacpp_times.py"
