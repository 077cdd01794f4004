"""`bench` in transformers: both models by turns in this process, and the memory of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lbdsl.artifact.record import Record
from lbdsl.bench.cells import Cell, Measured, exact
from lbdsl.bench.contexts import STEPS, Contexts, Predicted, context_cells
from lbdsl.bench.engine import check_free
from lbdsl.bench.peak_memory import is_known, model_alone, stock_model
from lbdsl.core.units import plural, tokens_text
from lbdsl.measure.memory import SHARE
from lbdsl.session.model import OpenModel
from lbdsl.session.targets import TRANSFORMERS


@dataclass(frozen=True)
class InTransformers(Contexts):
    """What to time in transformers; see `Contexts`."""

    def check(self, base: OpenModel) -> None:
        """Raises LB324."""
        self.lengths(base)

    def measure(self, base: OpenModel, folder: Path, record: Record, stack: ExitStack) -> tuple[Measured, Iterator[Cell]]:
        """Memory, prefill, decode, latency and cache. Raises LB324 for a context that is longer than the model's
        positions, LB486 if memory does not hold both models and their caches."""
        import torch
        import transformers

        contexts, version = self.lengths(base), transformers.__version__
        predicted = Predicted.of(base, record, TRANSFORMERS, version)
        costs, longest, batch = (predicted.base, predicted.artifact), max(contexts), max(self.batches)
        needed = sum(cost.weights + batch * cost.kv_bytes(longest) for cost in costs)
        what = f"both models, and {plural(batch, 'sequence')} of {tokens_text(longest)} tokens for each,"
        check_free(base, needed, what, "name shorter --contexts or smaller --batches", SHARE)
        return Measured(TRANSFORMERS, version, torch.get_num_threads()), self._cells(base, folder, contexts, predicted)

    def _cells(self, base: OpenModel, folder: Path, contexts: Sequence[int], predicted: Predicted) -> Iterator[Cell]:
        from lbdsl.bench.in_transformers import TimedModel

        # Before the models are loaded here, while there is room for those of other processes.
        cells = [(context, batch) for context in contexts for batch in self.batches]
        yield from _memory(base, folder, cells, predicted)
        stock, changed = stock_model(base), OpenModel(folder, base.options, base.progress).base
        models = tuple(TimedModel(model, base.facts.vocab, STEPS) for model in (stock, changed))
        with base.progress.stage("timing both models by turns") as report:
            yield from context_cells((models[0], models[1]), contexts, self, predicted, report)


def _memory(base: OpenModel, folder: Path, cells: Sequence[tuple[int, int]], predicted: Predicted) -> Iterator[Cell]:
    """The cells of memory: each model in a process of its own."""
    if not is_known(base.device):
        base.progress.say("this system does not tell a process's peak memory: it is left out")
        return
    smaller_first = sorted(cells, key=lambda cell: (cell[0] * cell[1], cell))
    peaks = []
    with base.progress.stage("memory of each model alone") as report:
        for model in (base.source.gguf_path or base.source.path, folder):
            with model_alone(model, base.options) as peak:
                for context, batch in smaller_first:
                    peaks.append(peak(context, batch))
                    report(len(peaks), 2 * len(cells), "")
    for (context, batch), *both in zip(smaller_first, peaks, peaks[len(cells) :], strict=False):
        found = exact(*both, context=context, batch=batch, metric="memory", unit="bytes")
        yield replace(found, **predicted.memory(context, batch))
