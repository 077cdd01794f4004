"""Cells of reading prompts and of decoding from them, for any engine that can do both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, ClassVar, Protocol, Self

from lbdsl.artifact.record import Record, facts_of
from lbdsl.bench.cells import Cell, Pair, by_turns, exact, paired
from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report
from lbdsl.core.units import tokens_text
from lbdsl.cost.cost import Machine, ModelCost, model_cost
from lbdsl.cost.profile import Profile
from lbdsl.session.model import OpenModel

NEW_TOKENS = 64
"""Tokens that `e2el`, the latency from end to end, writes after the prompt: the time of reading, and this many times that
of a step."""
STEPS = 8
"""Decode steps of one timed run."""
USUAL = (1024, 4096)


def request_cells(
    models: Sequence[Callable[[int, int, int], dict[str, float]]], asked: Any, report: Report
) -> Iterator[Cell]:
    """The cells of the base and of the artifact that get requests at once; a model takes how many, the tokens of each
    prompt and those to write. `asked` has `concurrency`, `lengths` and `pairs`, as `Requests`."""
    cells = [(requests, read, written) for read, written in asked.lengths for requests in asked.concurrency]
    rounds, total = count(1), 2 * len(cells) * asked.pairs
    for requests, read, written in cells:
        for model in models:
            # The first run of a length is slower.
            model(requests, read, min(2, written))
        base, artifact = (partial(model, requests, read, written) for model in models)
        pairs = by_turns(base, artifact, asked.pairs, lambda: report(next(rounds), total, ""), warm=False)
        for metric in pairs[0].base:
            rows = [pair.each(lambda figures, name=metric: figures[name]) for pair in pairs]
            unit = "tokens/s" if metric == "throughput" else "seconds"
            yield paired(rows, context=read, batch=requests, metric=metric, unit=unit, output=written)


@dataclass(frozen=True)
class Contexts:
    """Prompts of `contexts` tokens (None: USUAL, as far as the model has positions), decoded from with `batches`
    sequences, in `pairs` runs of both models by turns."""

    contexts: Sequence[int] | None = None
    batches: Sequence[int] = (1, 8)
    pairs: int = 5
    QUANTIZED: ClassVar[Mapping[str, str]] = {}
    """One more variant to calibrate with."""

    def lengths(self, bench: OpenModel) -> tuple[int, ...]:
        """The contexts, each with room for the tokens that all runs write after it. Raises LB324."""
        has = bench.facts.positions
        fitting = tuple(context for context in USUAL if context + self.written <= has)
        wanted = self.contexts or fitting or (max(1, has - self.written),)
        for context in wanted:
            if context + self.written > has:
                wanted_text = f"{tokens_text(context)} tokens, and {self.written} that are written after them"
                message = f"{wanted_text}, are more than the {tokens_text(has)} positions of the model"
                raise fail("LB324", message, help="name shorter ones with --contexts")
        return tuple(wanted)

    @property
    def written(self) -> int:
        """Tokens that all runs of a cell write together."""
        return STEPS * (self.pairs + 1)

    def for_profile(self, bench: OpenModel) -> tuple[Self, int]:
        """The same with two contexts or more where the model has room, each of its positions with room for what is written
        after it, so that its cells decide a profile; and the size of windows to time."""
        has = bench.facts.positions
        room = max(1, has - self.written)
        named = self.contexts or self.lengths(bench)
        wanted = sorted({min(context, room) if context <= has else context for context in named})
        contexts = tuple(sorted({max(1, wanted[0] // 2), *wanted})) if len(wanted) == 1 else tuple(wanted)
        return replace(self, contexts=contexts), max(1, contexts[0] // 2 if len(wanted) == 1 else contexts[0] // 4)


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
    """Ratios of artifact over base, as fields of cells: by the profile of the engine, else as a bound by formula."""

    base: ModelCost
    artifact: ModelCost
    machine: Machine
    profile: Profile | None

    @classmethod
    def of(
        cls,
        base: OpenModel,
        record: Record,
        engine: str,
        version: str,
        machine: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> Predicted:
        """`version` is the engine's: a profile of another one, or on another number of `threads`, predicts nothing.
        `machine` and `threads` as of `Measured`."""
        from lbdsl.measure.machine import machine_for

        with base.progress.stage("calibrating the machine"):
            constants = machine_for(base.device, base.computed, base.cache_dir)
        profile = base.profiles([engine], machine or {}).get(engine)
        # It is of layers of its own model's sizes.
        if profile and (profile.version != version or base.digest != record.plan.model.digest):
            profile = None
        if profile and threads is not None and profile.machine["threads"] != threads:
            profile = None
        facts = replace(facts_of(record), dtype=base.computed.dtype)
        return cls(base.computed.cost, model_cost(facts, record.plan.specs), constants, profile)

    def prefill(self, context: int) -> dict[str, Any]:
        bound = self.base.prefill_flops(context) / self.artifact.prefill_flops(context)
        return self._faster(bound, Profile.reading, context)

    def decode(self, context: int, batch: int) -> dict[str, Any]:
        was, becomes = (c.step_seconds(self.machine, context, batch) for c in (self.base, self.artifact))
        return self._faster(was / becomes, Profile.latency, context, batch) | self._between("latency", context, batch)

    def whole_request(self, context: int) -> dict[str, Any]:
        def seconds(profile: Profile, cost: ModelCost) -> float | None:
            reading, step = profile.reading(cost, context), profile.latency(cost, context, 1)
            return None if reading is None or step is None else reading + NEW_TOKENS * step

        return self._ratio(seconds)

    def throughput(self, read: int, written: int, requests: int) -> dict[str, Any]:
        arguments = read, written, requests
        return self._ratio(Profile.throughput, *arguments) | self._between("throughput", *arguments)

    def memory(self, context: int, batch: int) -> dict[str, Any]:
        return self._ratio(Profile.peak, context, batch) | self._between("memory", context, batch)

    def _between(self, name: str, *arguments: int) -> dict[str, Any]:
        """The ends of the predicted ratio; of times, whose cells are rates, of their inverse."""
        base = self.profile and self.profile.value(name, self.base, arguments)
        ends = self.profile and self.profile.between(name, self.artifact, self.base, arguments)
        if not base or not ends or ends[0] == ends[1]:
            return {}
        ratios = [base / end if name == "latency" else end / base for end in ends]
        return {"between": (min(ratios), max(ratios))}

    def cache(self, context: int) -> dict[str, Any]:
        return {"predicted": self.artifact.kv_bytes(context) / self.base.kv_bytes(context)}

    def _faster(self, bound: float, seconds: Callable[..., float | None], *cell: int) -> dict[str, Any]:
        """How many times as fast."""
        slower = self._ratio(seconds, *cell)
        return {"predicted": 1 / slower["predicted"] if slower else bound, "bound": not slower}

    def _ratio(self, value: Callable[..., float | None], *cell: int) -> dict[str, Any]:
        """`value` is of the profile; nothing without a profile that covers both."""
        if self.profile is None:
            return {}
        base, artifact = (value(self.profile, cost, *cell) for cost in (self.base, self.artifact))
        return {"predicted": artifact / base} if base and artifact else {}


def context_cells(
    models: tuple[Timed, Timed],
    contexts: Sequence[int],
    asked: Contexts,
    predicted: Predicted,
    report: Report,
) -> Iterator[Cell]:
    """The cells of speed and cache of the base and the artifact."""
    rounds = count(1)
    total = 2 * len(contexts) * (1 + len(asked.batches)) * (asked.pairs + 1)

    def timed(base: Callable[[], float], artifact: Callable[[], float]) -> list[Pair[float]]:
        return by_turns(base, artifact, asked.pairs, lambda: report(next(rounds), total, ""))

    for context in contexts:
        reading = timed(*(partial(model.read, context) for model in models))
        rates = [pair.each(lambda seconds, n=context: n / seconds) for pair in reading]
        found = paired(rates, context=context, batch=1, metric="prefill", unit="tokens/s")
        yield replace(found, **predicted.prefill(context))
        for batch in asked.batches:
            cache = [model.prepare(context, batch) for model in models]
            writing = timed(*(model.write for model in models))
            rates = [pair.each(lambda seconds, n=batch: n / seconds) for pair in writing]
            found = paired(rates, context=context, batch=batch, metric="decode", unit="tokens/s")
            yield replace(found, **predicted.decode(context, batch))
            if batch == 1:
                both = zip(reading, writing, strict=True)
                whole = [read.each(lambda a, b: a + NEW_TOKENS * b, write) for read, write in both]
                found = paired(whole, context=context, batch=1, metric="e2el", unit="seconds")
                yield replace(found, output=NEW_TOKENS, **predicted.whole_request(context))
            if cache[0]:
                held = exact(*cache, context=context, batch=batch, metric="cache", unit="bytes")
                yield replace(held, **predicted.cache(context))
