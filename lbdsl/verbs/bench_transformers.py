"""Cells of `bench` in transformers: both models by turns in one process, and the memory of each alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.artifact.record import Record
from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report
from lbdsl.core.units import bytes_text, plural, tokens_text
from lbdsl.layer.cost import ModelCost, model_cost
from lbdsl.verbs.peak_memory import peak_alone, stock_model
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.bench.cells import Cell, Measured, Pair

NEW_TOKENS = 64
"""Tokens that `latency` writes after the prompt: it is the time of reading, and this many times that of a step."""
USUAL = (1024, 4096)


@dataclass(frozen=True)
class Contexts:
    """Prompts of `contexts` tokens (None: USUAL, as far as the model has positions), decoded from with `batches`
    sequences, in `pairs` runs of both models by turns."""

    contexts: Sequence[int] | None = None
    batches: Sequence[int] = (1, 8)
    pairs: int = 5


def in_transformers(base: Workbench, folder: Path, record: Record, asked: Contexts) -> tuple[Measured, Iterator[Cell]]:
    """Memory, prefill, decode, latency and cache. Raises LB324 for a context that is longer than the model's positions,
    LB486 if memory does not hold both models and their caches."""
    import transformers

    from lbdsl.bench.cells import Measured
    from lbdsl.measure.machine import machine_for

    costs = model_cost(base.computed, base.computed.layer_specs), model_cost(base.computed, record.plan.specs)
    contexts = _contexts(asked, base)
    _check_memory(costs, max(contexts), max(asked.batches), base)

    def cells() -> Iterator[Cell]:
        with base.progress.stage("calibrating the machine"):
            machine = machine_for(base.device, base.computed, base.cache_dir)
        # Before the models are loaded here, while there is room for those of other processes.
        yield from _memory(base, folder, [(context, batch) for context in contexts for batch in asked.batches])
        changed = Workbench(folder, base.options, base.progress)
        yield from _times(base, changed, contexts, asked, _Predicted(*costs, machine))

    return Measured("transformers", transformers.__version__), cells()


@dataclass(frozen=True)
class _Predicted:
    """Ratios by formula, of artifact over base."""

    base: ModelCost
    artifact: ModelCost
    machine: Any

    def prefill(self, context: int) -> float:
        return self.base.prefill_flops(context) / self.artifact.prefill_flops(context)

    def decode(self, context: int, batch: int) -> float:
        was, becomes = (c.step_seconds(self.machine, context, batch) for c in (self.base, self.artifact))
        return was / becomes

    def cache(self, context: int) -> float:
        return self.artifact.kv_bytes(context) / self.base.kv_bytes(context)


def _times(
    base: Workbench, changed: Workbench, contexts: Sequence[int], asked: Contexts, predicted: _Predicted
) -> Iterator[Cell]:
    """The cells of speed and cache."""
    from lbdsl.bench.cells import by_turns, exact, paired
    from lbdsl.bench.in_transformers import Decoding, prefill_seconds, prompt

    stock = stock_model(base)
    # The base twice: how far its ratio to itself is from 1 is how much of a difference is chance.
    models = stock, changed.base, stock
    rounds = count(1)
    total = len(contexts) * (1 + len(asked.batches)) * (asked.pairs + 1)

    def timed(runs: Sequence[Callable[[], float]], report: Report) -> list[Pair]:
        # The first round warms up.
        return by_turns(runs, asked.pairs + 1, lambda: report(next(rounds), total, ""))[1:]

    with base.progress.stage("timing both models by turns") as report:
        for context in contexts:
            names: Callable[..., Any] = partial(dict, context=context)
            ids = prompt(base.facts.vocab, context, base.device)
            reading = timed([partial(prefill_seconds, model, ids) for model in models], report)
            rates = [pair.each(lambda seconds, n=context: n / seconds) for pair in reading]
            found = paired(rates, **names(batch=1, metric="prefill", unit="tokens/s"))
            yield replace(found, predicted=predicted.prefill(context), bound=True)
            for batch in asked.batches:
                running = [Decoding(model, ids, batch) for model in models]
                cache = [float(one.cache_bytes) for one in running[:2]]
                writing = timed([one.seconds for one in running], report)
                running.clear()
                rates = [pair.each(lambda seconds, n=batch: n / seconds) for pair in writing]
                found = paired(rates, **names(batch=batch, metric="decode", unit="tokens/s"))
                yield replace(found, predicted=predicted.decode(context, batch), bound=True)
                if batch == 1:
                    both = zip(reading, writing, strict=True)
                    whole = [read.each(lambda a, b: a + NEW_TOKENS * b, write) for read, write in both]
                    yield replace(paired(whole, **names(batch=1, metric="latency", unit="seconds")), output=NEW_TOKENS)
                if cache[0]:
                    held = exact(*cache, **names(batch=batch, metric="cache", unit="bytes"))
                    yield replace(held, predicted=predicted.cache(context))


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


def _contexts(asked: Contexts, bench: Workbench) -> tuple[int, ...]:
    """The contexts, each with room for the tokens that all runs write after it. Raises LB324."""
    from lbdsl.bench.in_transformers import STEPS

    most = bench.facts.positions - STEPS * (asked.pairs + 1)
    wanted = asked.contexts or tuple(context for context in USUAL if context <= most) or (max(1, most),)
    for context in wanted:
        if context > most:
            written, has = bench.facts.positions - most, tokens_text(bench.facts.positions)
            message = f"{tokens_text(context)} tokens, and {written} that are written after them, are more than the {has} "
            message += "positions of the model"
            raise fail("LB324", message, help="name shorter ones with --contexts")
    return tuple(wanted)


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
