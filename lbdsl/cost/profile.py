"""Predicted times and memory of a changed model in an engine, from a profile: what its parts cost there, as measured.

Each quantity is a sum of features of the model (how many attentions, how many bytes of cache, ...) times constants of a
machine and an engine. The constants are fitted to real runs (`lbdsl.measure.profiles`); none is negative. Between two
measured batches the sum is interpolated; beyond what was measured there is no prediction.
"""

from __future__ import annotations

import shlex
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lbdsl.core.digest import digest_of, short
from lbdsl.core.units import Unit
from lbdsl.cost.cost import LayerCost, ModelCost, model_cost
from lbdsl.layer.difference import window_size
from lbdsl.layer.spec import LayerSpec

Constants = tuple[float, ...]

READ_AT_ONCE = {"llamacpp": 512}
"""Tokens of a prompt that an engine reads at once (llama.cpp: its `n_ubatch`, as `bench` sets it): each of them meets the
keys of all tokens up to the last of these. For a window llama.cpp holds as many keys more, rounded up to `RING_STEP`, and
reads them all."""

RING_STEP = 256


def _counts(cost: ModelCost) -> tuple[int, int, int]:
    """How many layers have attention, a window, an MLP."""
    specs = [layer.spec for layer in cost.layers]
    windows = sum(window_size(spec) is not None for spec in specs)
    return sum(s.mixer is not None for s in specs), windows, sum(s.ffn is not None for s in specs)


def step_features(cost: ModelCost, ctx: int, batch: int) -> Constants:
    """Of a decode step of `batch` sequences: the model, attentions, windows, MLPs, bytes of the layers' matrices and of
    those that are quantized, bytes of the cache, and these again of the base itself: transformers' own attention reads the
    keys of a group of queries more often than that of an artifact."""
    packed = sum(layer.packed_bytes for layer in cost.layers)
    matrices = sum(layer.step_bytes(batch) for layer in cost.layers) - packed
    cache = batch * cost.kv_bytes(ctx)
    return (1.0, *_counts(cost), matrices, packed, cache, cache if cost.is_base else 0)


def prefill_features(cost: ModelCost, ctx: int, engine: str = "") -> Constants:
    """Of reading `ctx` tokens: the model, attentions, MLPs, multiplications with the layers' matrices and with those that
    are quantized, attention without and within a window, as the engine does it."""
    mixers, _, ffns = _counts(cost)
    matrices, packed = _products(cost)
    full, windowed = map(sum, zip((0, 0), *(_attention(layer, ctx, engine) for layer in cost.layers), strict=True))
    return (1.0, mixers, ffns, ctx * matrices, ctx * packed, full, windowed)


def memory_features(cost: ModelCost, ctx: int, batch: int) -> Constants:
    """Of the peak of reading `ctx` tokens into `batch` sequences and writing on: engine, weights, cache, activations."""
    return (1.0, cost.weights, batch * cost.kv_bytes(ctx), ctx)


def run_features(cost: ModelCost, read: int, written: int) -> Constants:
    """Of a whole run of some number of requests at once: multiplications while reading, also with quantized matrices,
    attention without and within a window, and, for each token written, the model, its sub-blocks, multiplications, and the
    cache half way."""
    mixers, _, ffns = _counts(cost)
    reading = prefill_features(cost, read)[3:]
    cache = cost.kv_bytes(read + written // 2)
    return (*reading, *(written * each for each in (1.0, mixers + ffns, *_products(cost), cache)))


def _products(cost: ModelCost) -> tuple[int, int]:
    """Multiplications of a token with the layers' matrices, and with those that are quantized."""
    packed = sum(layer.packed for layer in cost.layers)
    return sum(layer.matrix for layer in cost.layers) - packed, packed


def _attention(layer: LayerCost, ctx: int, engine: str) -> tuple[int, int]:
    """FLOPs of its attention without and within a window."""
    at_once = READ_AT_ONCE.get(engine)
    full, windowed = layer.prefill_flops(ctx) - 2 * ctx * layer.matrix, 0
    for seen, flops in layer.spec.mixer.seen(ctx).items() if layer.spec.mixer is not None else ():
        exact = here = flops * (2 * ctx * seen - seen * seen) // 2
        if at_once is not None:
            held = RING_STEP * -(-(seen + at_once) // RING_STEP) if seen < ctx else ctx
            ends = [min(start + at_once, ctx) for start in range(0, ctx, at_once)]
            here = flops * sum((end - start) * min(end, held) for start, end in zip([0, *ends], ends, strict=False))
        full += (0 if seen < ctx else here) - exact
        windowed += here if seen < ctx else 0
    return full, windowed


@dataclass(frozen=True)
class Profile:
    """Constants of one model's kind of layers in `engine`, of groups: `steps` and `runs` by batch, or number of requests;
    `prefill` and `memory` under 0. A group that was not measured is absent. `ranges` are the least and most tokens that
    were measured, by group; of runs those that were read, and under `written` those that were written. `errors` are the
    largest relative errors of the fits, by group; `packed` the forms of quantized weights and caches that were timed.
    `saved` are the least and the most share of a predicted saving that was measured, by group, also of a variant that was
    not fitted. `confirmed`: of whole models that were measured themselves, by `confirmed_key`, the ratio to the base and
    its interval."""

    engine: str
    version: str
    machine: Mapping[str, Any]
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    constants: Mapping[str, Mapping[int, Constants]] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
    saved: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    confirmed: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def between(
        self, name: str, cost: ModelCost, base: ModelCost, arguments: Sequence[int], *, spread_base: bool = False
    ) -> tuple[float, float] | None:
        """The ends of what `value` may be: as much less or more is saved of the `base`'s time or memory as it was with the
        variants that were timed, and the rest is as far off as the fit is at most. The base itself has no spread; with
        `spread_base` it has that of the fit, so that what lies between is a sum over layers."""
        known = PREDICTED_VALUES[name]
        if measured := self.measured(name, cost, arguments):
            value = self.value(name, base, arguments)
            return None if value is None else (measured[1] * value, measured[2] * value)
        least, most = self.saved.get(known.group, (1.0, 1.0))
        values = self.value(name, base, arguments), self.value(name, cost, arguments)
        if values[0] is None or values[1] is None:
            return None
        # Of a rate the time is its inverse.
        was, becomes = ((1 / value if known.unit is Unit.RATE else value) for value in values if value is not None)
        # However much was saved, half of the predicted time or memory is taken as the least.
        ends = [max(was - share * (was - becomes), becomes / 2) for share in (least, most)]
        if known.unit is Unit.RATE:
            ends = [1 / end for end in ends]
        error = self.errors.get(known.group, 0.0) if was != becomes or spread_base else 0.0
        return min(ends) / (1 + error), max(ends) * (1 + error)

    def value(self, name: str, cost: ModelCost, arguments: Sequence[int]) -> float | None:
        """The predicted value `name` (see PREDICTED_VALUES), for a model in the dtype that was timed; None beyond what was
        measured."""
        if measured := self.measured(name, cost, arguments):
            base = self._predicted(name, cost.facts.cost, arguments)
            return None if base is None else measured[0] * base
        return self._predicted(name, cost, arguments)

    def _predicted(self, name: str, cost: ModelCost, arguments: Sequence[int]) -> float | None:
        dtype = self.machine["dtype"]
        if cost.facts.dtype != dtype:
            model = cost.facts.in_dtype(dtype)
            cost = replace(model_cost(model, [layer.spec for layer in cost.layers]), is_base=cost.is_base)
        return PREDICTED_VALUES[name].of(self, cost, *arguments)

    def measured(self, name: str, cost: ModelCost, arguments: Sequence[int]) -> tuple[float, float, float] | None:
        """The ratio to the base and its interval of a model that was measured itself."""
        if not self.confirmed or cost.is_base:
            return None
        return self.confirmed.get(confirmed_key(name, (layer.spec for layer in cost.layers), arguments))

    def latency(self, cost: ModelCost, ctx: int, batch: int) -> float | None:
        """Seconds of a decode step: the time between two tokens of each of `batch` sequences."""
        return self._within("steps", cost, ctx, batch, lambda b: step_features(cost, ctx, b))

    def reading(self, cost: ModelCost, ctx: int) -> float | None:
        """Seconds of reading a prompt of `ctx` tokens."""
        return self._within("prefill", cost, ctx, 0, lambda _: prefill_features(cost, ctx, self.engine))

    def peak(self, cost: ModelCost, ctx: int, batch: int) -> float | None:
        """Bytes of memory."""
        if batch > max(self.constants.get("steps", ()), default=0):
            return None
        return self._within("memory", cost, ctx, 0, lambda _: memory_features(cost, ctx, batch))

    def throughput(self, cost: ModelCost, read: int, written: int, requests: int) -> float | None:
        """Tokens written a second, over a whole run of `requests` at once."""
        if not self._covers("written", written):
            return None
        seconds = self._within("runs", cost, read, requests, lambda _: run_features(cost, read, written))
        return requests * written / seconds if seconds else None

    def untimed(self, cost: ModelCost) -> list[str]:
        """The forms of its quantized weights and caches that were not timed."""
        return [form for form in packed_forms(layer.spec for layer in cost.layers) if form not in self.packed]

    def _covers(self, group: str, tokens: int) -> bool:
        least, most = self.ranges.get(group, (1, 0))
        return least <= tokens <= most

    def _within(
        self, group: str, cost: ModelCost, tokens: int, batch: int, features: Callable[[int], Constants]
    ) -> float | None:
        """The sum at `batch`, interpolated between its measured neighbours; None beyond what was measured, and for
        quantized weights and caches of forms that were not."""
        known = self.constants.get(group, {})
        batches = sorted(known)
        if not batches or not self._covers(group, tokens) or not batches[0] <= batch <= batches[-1] or self.untimed(cost):
            return None
        place = bisect_left(batches, batch)
        high = batches[place]
        above = weighed(known[high], features(high))
        if high == batch:
            return above
        low = batches[place - 1]
        below = weighed(known[low], features(low))
        return below + (above - below) * (batch - low) / (high - low)


def confirmed_key(name: str, specs: Iterable[LayerSpec], arguments: Sequence[int]) -> str:
    """What a measured value of a whole model is kept under."""
    return f"{name}({', '.join(map(str, arguments))}) of {short(digest_of([spec.to_json() for spec in specs]), 16)}"


def packed_forms(specs: Iterable[LayerSpec]) -> tuple[str, ...]:
    """How weights are quantized, such as `W8A8`, and caches."""
    parts = (part for spec in dict.fromkeys(specs) for part in (spec.mixer, spec.ffn, *dict(spec.weights).values()))
    return tuple(dict.fromkeys(part.in_few_bits for part in parts if part is not None and part.in_few_bits))


def weighed(constants: Constants, features: Constants) -> float:
    """The sum of features times constants."""
    return sum(c * f for c, f in zip(constants, features, strict=True))


@dataclass(frozen=True)
class PredictedValue:
    """A value of the changed model that a profile predicts, with its name in recipes. `parameters` are whole numbers, their
    names and units; `group` is that of the profile; `engines` are those that it is measured in, the first unless the recipe
    names another. `options` are those of `lbdsl calibrate` that measure it, and what of the parameters each takes.
    `meaning` is shown by the editor and by `explain`."""

    name: str
    unit: Unit
    parameters: Mapping[str, Unit]
    group: str
    engines: tuple[str, ...]
    options: Mapping[str, str]
    of: Callable[..., float | None]
    meaning: str

    @property
    def form(self) -> str:
        engines = [f"engine={'|'.join(self.engines)}"] if len(self.engines) > 1 else []
        return f"{self.name}({', '.join([*self.parameters, *engines])})"


_CELL = {"CTX": Unit.TOKENS, "BATCH": Unit.NONE}
PREDICTED_VALUES: Mapping[str, PredictedValue] = {
    value.name: value
    for value in (
        PredictedValue(
            "latency",
            Unit.SECONDS,
            _CELL,
            "steps",
            ("transformers", "llamacpp"),
            {"--contexts": "{0}", "--batches": "{1}"},
            Profile.latency,
            "Seconds between two tokens of each of BATCH sequences at CTX tokens.",
        ),
        PredictedValue(
            "memory",
            Unit.BYTES,
            _CELL,
            "memory",
            ("transformers",),
            {"--contexts": "{0}", "--batches": "{1}"},
            Profile.peak,
            "Bytes at the peak of reading CTX tokens and writing on with BATCH sequences.",
        ),
        PredictedValue(
            "throughput",
            Unit.RATE,
            {"IN": Unit.TOKENS, "OUT": Unit.TOKENS, "REQUESTS": Unit.NONE},
            "runs",
            ("vllm",),
            {"--lengths": "{0}/{1}", "--concurrency": "{2}"},
            Profile.throughput,
            "Tokens written a second by REQUESTS at once, each of IN tokens read and OUT written.",
        ),
    )
}
"""The predicted values by name. A percentage compared with one of them is a share of the base model's value."""


def calibrate_line(engine: str, asked: Iterable[tuple[str, Sequence[int]]], model: str = "MODEL") -> str:
    """The command that measures what these values, with their arguments, are predicted from."""
    options: dict[str, dict[str, None]] = {}
    for name, arguments in asked:
        for option, form in PREDICTED_VALUES[name].options.items():
            options.setdefault(option, {})[form.format(*arguments)] = None
    measured = (f"{option} {','.join(values)}" for option, values in options.items())
    return " ".join(["lbdsl calibrate", shlex.quote(model), "--engine", engine, *measured])
