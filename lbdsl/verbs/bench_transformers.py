"""Cells of `bench` in transformers: both models by turns in one process, and the memory of each alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.artifact.record import Record
from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report
from lbdsl.core.units import bytes_text, plural, tokens_text
from lbdsl.layer.cost import ModelCost, model_cost
from lbdsl.verbs.options import RunOptions
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.bench.cells import Cell, Pair

NEW_TOKENS = 64
"""Tokens that `latency` writes after the prompt."""


@dataclass(frozen=True)
class Contexts:
    """Prompts of `contexts` tokens, decoded from with `batches` sequences, in `pairs` runs of both models by turns."""

    contexts: Sequence[int] = (1024, 4096)
    batches: Sequence[int] = (1, 8)
    pairs: int = 5


def cells_in_transformers(base: Workbench, folder: Path, record: Record, asked: Contexts) -> Iterator[Cell]:
    """Prefill, decode, latency, cache and memory. Raises LB324 for a context that is longer than the model's positions,
    LB486 if memory does not hold both models and their caches."""
    from lbdsl.measure.machine import machine_for

    costs = model_cost(base.computed, base.computed.layer_specs), model_cost(base.computed, record.plan.specs)
    _check_lengths(asked.contexts, base)
    _check_memory(costs, max(asked.contexts), max(asked.batches), base)
    with base.progress.stage("calibrating the machine"):
        machine = machine_for(base.device, base.computed, base.cache_dir)
    changed = Workbench(folder, base.options, base.progress)
    yield from _times(base, changed, asked, _Predicted(*costs, machine))
    yield from _memory(base, folder, asked)


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


def _times(base: Workbench, changed: Workbench, asked: Contexts, predicted: _Predicted) -> Iterator[Cell]:
    """The cells of speed and cache."""
    from lbdsl.bench.cells import by_turns, exact, paired
    from lbdsl.bench.in_transformers import ENGINE, Decoding, prefill_seconds, prompt

    stock = stock_model(base)
    # The base twice: how far its ratio to itself is from 1 is how much of a difference is chance.
    models = stock, changed.base, stock
    rounds = count(1)
    total = len(asked.contexts) * (1 + len(asked.batches)) * (asked.pairs + 1)

    def timed(runs: Sequence[Callable[[], float]], report: Report) -> list[Pair]:
        # The first round warms up.
        return by_turns(runs, asked.pairs + 1, lambda: report(next(rounds), total, ""))[1:]

    with base.progress.stage("timing both models by turns") as report:
        for context in asked.contexts:
            names: Callable[..., Any] = partial(dict, engine=ENGINE, context=context)
            ids = prompt(base.facts.vocab, context, base.device)
            reading = timed([partial(prefill_seconds, model, ids) for model in models], report)
            rates = [pair.each(lambda seconds, n=context: n / seconds) for pair in reading]
            found = paired(rates, **names(batch=1, metric="prefill", unit="tokens/s"))
            yield replace(found, predicted=predicted.prefill(context), bound=True)
            for batch in asked.batches:
                running = [Decoding(model, ids, batch) for model in models]
                cache = [float(one.cache_bytes) for one in running[:2]]
                writing = timed([one.seconds for one in running], report)
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


def _memory(base: Workbench, folder: Path, asked: Contexts) -> Iterator[Cell]:
    """The cells of memory: each model in a process of its own."""
    from lbdsl.bench.cells import exact
    from lbdsl.bench.in_transformers import ENGINE
    from lbdsl.bench.memory import is_known

    if not is_known(base.device):
        base.progress.say("this system does not tell a process's peak memory: it is left out")
        return
    base.release()
    cells = [(context, batch) for context in asked.contexts for batch in asked.batches]
    with base.progress.stage("memory of each model alone") as report:
        for done, (context, batch) in enumerate(cells):
            peaks = []
            for model in (str(base.source.path), str(folder)):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    peaks.append(float(alone.submit(peak_bytes, model, base.options, context, batch).result()))
            yield exact(*peaks, engine=ENGINE, context=context, batch=batch, metric="memory", unit="bytes")
            report(done + 1, len(cells), "")


def peak_bytes(model: str, options: RunOptions, context: int, batch: int) -> int:
    """Bytes at the peak of reading a prompt and decoding from it, the weights included."""
    from lbdsl.bench.in_transformers import Decoding, prompt
    from lbdsl.bench.memory import Peak

    bench = Workbench(model, options)
    peak = Peak(bench.device)
    loaded = stock_model(bench)
    peak.reset()
    Decoding(loaded, prompt(bench.facts.vocab, context, bench.device), batch).seconds()
    return peak.bytes


def stock_model(bench: Workbench) -> Any:
    """The model as transformers has it, in the dtype that this device computes in; an artifact as it is."""
    from lbdsl.model.computing import cast_weights
    from lbdsl.model.load import load_base
    from lbdsl.model.source import is_artifact

    if is_artifact(bench.source):
        return bench.base
    loaded = load_base(
        bench.source,
        dtype=bench.facts.dtype,
        device=bench.device,
        trust_remote_code=bench.options.trust_remote_code,
        cache_dir=bench.cache_dir,
    )
    return cast_weights(loaded, bench.computed.dtype).eval()


def _check_lengths(contexts: Sequence[int], bench: Workbench) -> None:
    most = bench.facts.positions
    for context in contexts:
        if context > most:
            message = (
                f"a context of {tokens_text(context)} tokens is longer than the {tokens_text(most)} positions of the model"
            )
            raise fail("LB324", message, help="name shorter ones with --contexts")


def _check_memory(costs: tuple[ModelCost, ModelCost], context: int, batch: int, bench: Workbench) -> None:
    """Raise LB486 if memory does not hold both models and both caches of the largest cell."""
    from lbdsl.measure.memory import free_bytes

    base, artifact = costs
    caches = batch * (2 * base.kv_bytes(context) + artifact.kv_bytes(context))
    needed = base.weights + artifact.weights + caches
    free = free_bytes(bench.device)
    if needed > free:
        cell = f"{plural(batch, 'sequence')} of {tokens_text(context)} tokens"
        message = f"both models, and {cell} for each, take {bytes_text(needed)}, and {bytes_text(free)} are free"
        raise fail("LB486", message, help="name shorter --contexts or smaller --batches")
