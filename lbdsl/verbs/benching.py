"""`bench_artifact`: the speed and memory of a saved artifact beside its base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.artifact.record import Record, read_record, write_record
from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import AnyProgress, Progress
from lbdsl.core.units import bytes_text, plural, tokens_text
from lbdsl.layer.cost import ModelCost, model_cost
from lbdsl.verbs.notebook import NotebookResult
from lbdsl.verbs.options import RunOptions
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.bench.cells import Cell, Pair

CONTEXTS = (1024, 4096)
BATCHES = (1, 8)
PAIRS = 5
NEW_TOKENS = 64
"""Tokens that `latency` writes after the prompt."""


@dataclass(frozen=True, repr=False)
class Benched(NotebookResult):
    """The cells that were measured, and the machine they were measured on."""

    record: Record
    machine: dict[str, Any]
    cells: tuple[Cell, ...]

    def in_short(self) -> str:
        return f"{plural(len(self.cells), 'cell')} of {self.record.plan.model.name}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `bench --json`."""
        return {"format_version": 1, "machine": self.machine, "cells": [cell.to_json() for cell in self.cells]}


def bench_artifact(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    contexts: Sequence[int] = CONTEXTS,
    batches: Sequence[int] = BATCHES,
    pairs: int = PAIRS,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Benched:
    """Reading prompts of `contexts` tokens, and decoding from there with `batches` sequences, in transformers, for the
    artifact and for its base, in `pairs` runs of both by turns.

    `against` is the base model, needed when it is not at the path in the record. Raises LbdslError when the folder is no
    artifact or was edited (LB465, LB466), the base is not the one it was made from (LB473), a context is longer than the
    model's positions (LB324), or memory does not hold both models and their caches (LB486).
    """
    from lbdsl.artifact.restore import check_files
    from lbdsl.measure.machine import machine_for, machine_identity

    folder = Path(artifact)
    record = read_record(folder).unwrap()
    check_files(folder, record)
    plan = record.plan
    given = options or RunOptions()
    own = replace(given, dtype=given.dtype or plan.model.dtype)
    base = Workbench(against or plan.model.source, own, progress)
    if base.digest != plan.model.digest:
        raise fail(
            "LB473",
            f"{base.source.text} is not the model that the artifact was made from",
            help="name the base model with --against",
        )
    changed = Workbench(folder, own, progress)
    costs = model_cost(base.computed, base.computed.layer_specs), model_cost(base.computed, plan.specs)
    _check_lengths(contexts, base)
    _check_memory(costs, max(contexts), max(batches), base)
    with base.progress.stage("calibrating the machine"):
        machine = machine_for(base.device, base.computed, base.cache_dir)
    predicted = _Predicted(*costs, machine)
    cells = [
        *_times(base, changed, contexts, batches, pairs, predicted, base.progress),
        *_memory(base, folder, own, contexts, batches, base.progress),
    ]
    found = Benched(record, machine_identity(base.device, base.computed.dtype), tuple(cells))
    _keep(found, folder, base.progress)
    return found


def _keep(found: Benched, folder: Path, progress: Progress) -> None:
    """Write it into the artifact's record and card."""
    from lbdsl.artifact.card import write_card

    record = found.record.model_copy(update={"bench": found.to_json()})
    try:
        write_record(record, folder)
        write_card(record, folder)
    except OSError as problem:
        progress.say(f"the result is not kept in the artifact: {folder} cannot be written ({problem.strerror})")


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
    base: Workbench,
    changed: Workbench,
    contexts: Sequence[int],
    batches: Sequence[int],
    pairs: int,
    predicted: _Predicted,
    progress: Progress,
) -> Iterator[Cell]:
    """The cells of speed and cache."""
    from lbdsl.bench.cells import Pair, exact, paired
    from lbdsl.bench.in_transformers import ENGINE, STEPS, Decoding, prefill_seconds, prompt

    stock = stock_model(base)
    # The base twice: what its own ratio is, is how much of a difference is chance.
    models = stock, changed.base, stock
    rounds = len(contexts) * (1 + len(batches)) * (pairs + 1)
    with progress.stage("timing both models by turns") as report:
        done = 0

        def timed(work: Callable[[int], float]) -> list[Pair]:
            """Runs of the models by turns, forwards and backwards."""
            nonlocal done
            found = []
            for turn in range(pairs + 1):
                seconds = {which: work(which) for which in ((0, 1, 2) if turn % 2 == 0 else (2, 1, 0))}
                found.append(Pair(*(seconds[which] for which in range(3))))
                done += 1
                report(done, rounds, "")
            # The first round warms up.
            return found[1:]

        def speeds(found: list[Pair], tokens: float) -> list[Pair]:
            return [Pair(tokens / pair.base, tokens / pair.artifact, tokens / pair.again) for pair in found]

        for context in contexts:
            ids = prompt(base.facts.vocab, context, base.device)
            names = {"engine": ENGINE, "context": context}
            reading = timed(lambda which, ids=ids: prefill_seconds(models[which], ids))
            prefill = paired(speeds(reading, context), **names, batch=1, metric="prefill", unit="tokens/s")
            yield replace(prefill, predicted=predicted.prefill(context), bound=True)
            for batch in batches:
                running = [Decoding(model, ids, batch) for model in models]
                cache = [float(one.cache_bytes) for one in running[:2]]
                writing = timed(lambda which, running=running: running[which].seconds(STEPS))
                decode = paired(speeds(writing, batch), **names, batch=batch, metric="decode", unit="tokens/s")
                yield replace(decode, predicted=predicted.decode(context, batch), bound=True)
                if batch == 1:
                    whole = [
                        Pair(*(a + NEW_TOKENS * b for a, b in zip(_of(read), _of(write), strict=True)))
                        for read, write in zip(reading, writing, strict=True)
                    ]
                    yield paired(whole, **names, batch=batch, metric="latency", unit="seconds")
                if not cache[0]:
                    continue
                held = exact(*cache, **names, batch=batch, metric="cache", unit="bytes")
                yield replace(held, predicted=predicted.cache(context))


def _of(pair: Pair) -> tuple[float, float, float]:
    return pair.base, pair.artifact, pair.again


def _memory(
    base: Workbench,
    folder: Path,
    options: RunOptions,
    contexts: Sequence[int],
    batches: Sequence[int],
    progress: Progress,
) -> Iterator[Cell]:
    """The cells of memory: each model in a process of its own."""
    from lbdsl.bench.cells import exact
    from lbdsl.bench.in_transformers import ENGINE
    from lbdsl.bench.memory import is_known

    if not is_known(base.device):
        progress.say("this system does not tell a process's peak memory: it is left out")
        return
    base.release()
    cells = [(context, batch) for context in contexts for batch in batches]
    with progress.stage("memory of each model alone") as report:
        for done, (context, batch) in enumerate(cells):
            peaks = []
            for model in (str(base.source.path), str(folder)):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    peaks.append(float(alone.submit(peak_bytes, model, options, context, batch).result()))
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
