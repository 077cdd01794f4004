"""`bench` in transformers: both models by turns in this process, and the memory of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lbdsl.artifact.record import Record
from lbdsl.core.diagnostic import fail
from lbdsl.core.units import bytes_text, plural, tokens_text
from lbdsl.layer.cost import ModelCost, model_cost
from lbdsl.verbs.bench_contexts import STEPS, Contexts, Predicted, context_cells
from lbdsl.verbs.peak_memory import peak_alone, stock_model
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.bench.cells import Cell, Measured


@dataclass(frozen=True)
class InTransformers(Contexts):
    """What to time in transformers; see `Contexts`."""

    def measure(self, base: Workbench, folder: Path, record: Record, stack: ExitStack) -> tuple[Measured, Iterator[Cell]]:
        """Memory, prefill, decode, latency and cache. Raises LB324 for a context that is longer than the model's
        positions, LB486 if memory does not hold both models and their caches."""
        import transformers

        from lbdsl.bench.cells import Measured

        costs = model_cost(base.computed, base.computed.layer_specs), model_cost(base.computed, record.plan.specs)
        contexts = self.lengths(base)
        _check_memory(costs, max(contexts), max(self.batches), base)
        return Measured("transformers", transformers.__version__), self._cells(base, folder, contexts, costs)

    def _cells(
        self, base: Workbench, folder: Path, contexts: Sequence[int], costs: tuple[ModelCost, ModelCost]
    ) -> Iterator[Cell]:
        from lbdsl.bench.in_transformers import TimedModel
        from lbdsl.measure.machine import machine_for

        with base.progress.stage("calibrating the machine"):
            machine = machine_for(base.device, base.computed, base.cache_dir)
        # Before the models are loaded here, while there is room for those of other processes.
        yield from _memory(base, folder, [(context, batch) for context in contexts for batch in self.batches])
        stock, changed = stock_model(base), Workbench(folder, base.options, base.progress).base
        models = [TimedModel(model, base.facts.vocab, STEPS) for model in (stock, changed, stock)]
        with base.progress.stage("timing both models by turns") as report:
            yield from context_cells((models[0], models[1], models[2]), contexts, self, Predicted(*costs, machine), report)


def _memory(base: Workbench, folder: Path, cells: Sequence[tuple[int, int]]) -> Iterator[Cell]:
    """The cells of memory: each model in a process of its own."""
    from lbdsl.bench.cells import exact
    from lbdsl.bench.memory import is_known

    if not is_known(base.device):
        base.progress.say("this system does not tell a process's peak memory: it is left out")
        return
    with base.progress.stage("memory of each model alone") as report:
        for done, (context, batch) in enumerate(cells):
            models = base.source.gguf_path or base.source.path, folder
            peaks = [peak_alone(model, base.options, context, batch) for model in models]
            yield exact(*peaks, context=context, batch=batch, metric="memory", unit="bytes")
            report(done + 1, len(cells), "")


def _check_memory(costs: tuple[ModelCost, ModelCost], context: int, batch: int, bench: Workbench) -> None:
    """Raise LB486 if memory does not hold both models and both caches of the largest cell."""
    from lbdsl.measure.memory import SHARE, free_bytes

    base, artifact = costs
    caches = batch * (2 * base.kv_bytes(context) + artifact.kv_bytes(context))
    needed = base.weights + artifact.weights + caches
    free = free_bytes(bench.device)
    if needed > SHARE * free:
        cell = f"{plural(batch, 'sequence')} of {tokens_text(context)} tokens"
        message = f"both models, and {cell} for each, take {bytes_text(needed)}: more than {SHARE:.0%} of what is free"
        raise fail("LB486", message, help="name shorter --contexts or smaller --batches")
