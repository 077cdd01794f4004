"""Cells of reading prompts and of decoding from them, for any engine that can do both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report
from lbdsl.core.units import tokens_text
from lbdsl.layer.cost import ModelCost
from lbdsl.verbs.workbench import Workbench

if TYPE_CHECKING:
    from lbdsl.bench.cells import Cell, Pair

NEW_TOKENS = 64
"""Tokens that `latency` writes after the prompt: it is the time of reading, and this many times that of a step."""
STEPS = 8
"""Decode steps of one timed run."""
USUAL = (1024, 4096)


@dataclass(frozen=True)
class Contexts:
    """Prompts of `contexts` tokens (None: USUAL, as far as the model has positions), decoded from with `batches`
    sequences, in `pairs` runs of both models by turns."""

    contexts: Sequence[int] | None = None
    batches: Sequence[int] = (1, 8)
    pairs: int = 5

    def lengths(self, bench: Workbench) -> tuple[int, ...]:
        """The contexts, each with room for the tokens that all runs write after it. Raises LB324."""
        written, has = STEPS * (self.pairs + 1), bench.facts.positions
        fitting = tuple(context for context in USUAL if context + written <= has)
        wanted = self.contexts or fitting or (max(1, has - written),)
        for context in wanted:
            if context + written > has:
                message = f"{tokens_text(context)} tokens, and {written} that are written after them, are more than the "
                message += f"{tokens_text(has)} positions of the model"
                raise fail("LB324", message, help="name shorter ones with --contexts")
        return tuple(wanted)


class Timed(Protocol):
    """A model in an engine."""

    def read(self, context: int) -> float:
        """Seconds to read a prompt."""

    def prepare(self, context: int, batch: int) -> float:
        """Read a prompt into `batch` sequences, to write from there; the bytes of their cache, 0 if it is not told."""

    def write(self) -> float:
        """Mean seconds of a step of one token for each sequence, over STEPS of them."""


@dataclass(frozen=True)
class Predicted:
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


def context_cells(
    models: tuple[Timed, Timed, Timed],
    contexts: Sequence[int],
    asked: Contexts,
    predicted: Predicted,
    report: Report,
) -> Iterator[Cell]:
    """The cells of speed and cache of the base, the artifact, and the base again: how far its ratio to itself is from 1 is
    how much of a difference is chance."""
    from lbdsl.bench.cells import by_turns, exact, paired

    rounds = count(1)
    total = len(contexts) * (1 + len(asked.batches)) * (asked.pairs + 1)

    def timed(runs: Sequence[Callable[[], float]]) -> list[Pair]:
        # The first round warms up.
        return by_turns(runs, asked.pairs + 1, lambda: report(next(rounds), total, ""))[1:]

    for context in contexts:
        names: Callable[..., Any] = partial(dict, context=context)
        reading = timed([partial(model.read, context) for model in models])
        rates = [pair.each(lambda seconds, n=context: n / seconds) for pair in reading]
        found = paired(rates, **names(batch=1, metric="prefill", unit="tokens/s"))
        yield replace(found, predicted=predicted.prefill(context), bound=True)
        for batch in asked.batches:
            cache = [model.prepare(context, batch) for model in models]
            writing = timed([model.write for model in models])
            rates = [pair.each(lambda seconds, n=batch: n / seconds) for pair in writing]
            found = paired(rates, **names(batch=batch, metric="decode", unit="tokens/s"))
            yield replace(found, predicted=predicted.decode(context, batch), bound=True)
            if batch == 1:
                both = zip(reading, writing, strict=True)
                whole = [read.each(lambda a, b: a + NEW_TOKENS * b, write) for read, write in both]
                yield replace(paired(whole, **names(batch=1, metric="latency", unit="seconds")), output=NEW_TOKENS)
            if cache[0]:
                held = exact(*cache[:2], **names(batch=batch, metric="cache", unit="bytes"))
                yield replace(held, predicted=predicted.cache(context))
