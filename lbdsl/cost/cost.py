"""Costs of layers and models, computed from their parts, and lower bounds of decode time (docs/costs.md).

Formulas only, nothing measured. Parameters, bytes of weights and cache, and FLOPs are exact counts from shapes; a multiply
and an add are two FLOPs. Times are lower bounds for given machine constants: the weights are read once per step, each
sequence's cache once per step, and arithmetic runs at the machine's GEMM rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Protocol, Self

from lbdsl.core.units import Unit
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import ModelShape, Part


class Sized(ModelShape, Protocol):
    """What costs depend on of a model: `lbdsl.cost.facts.ModelFacts`."""

    @property
    def vocab(self) -> int: ...

    @property
    def other_params(self) -> int:
        """The number of parameters outside the layers; a tied head counts once."""

    @property
    def cost(self) -> ModelCost:
        """Of the model itself."""

    def in_dtype(self, dtype: str) -> Self:
        """The same model in another dtype."""


@dataclass(frozen=True)
class LayerCost:
    """The counts of one layer in `model`.

    params:       parameters, including norms and biases
    matrix:       elements of matrices that a decoded token is multiplied with (2 FLOPs each)
    matrix_bytes: bytes of these matrices, as stored
    routed:       of `matrix_bytes`, by the share that a token is multiplied with, bytes of those of which it is a part
    weights:      bytes of all its parameters, as stored
    packed, packed_bytes: of `matrix` and `matrix_bytes`, what is quantized
    """

    model: Sized
    spec: LayerSpec
    params: int
    matrix: int
    matrix_bytes: int
    weights: int
    packed: int
    packed_bytes: int
    routed: Mapping[float, int] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: LayerSpec, model: Sized) -> LayerCost:
        params = matrix = matrix_bytes = packed = packed_bytes = other = 0
        stored, routed = dict(spec.weights), Counter[float]()
        used = {t.name: part.active(t) for _, part in spec.sub_blocks for t in part.tensors(model)}
        for tensor in spec.tensors(model):
            params += tensor.elements
            size = tensor.elements * model.dtype_bytes
            if active := used.get(tensor.name, 0):
                matrix += active
                storage = stored.get(tensor.module)
                if storage is not None:
                    size = storage.stored_bytes(tensor, model)
                if storage is not None and storage.packs:
                    packed += active
                    packed_bytes += size
                matrix_bytes += size
                if active < tensor.elements:
                    routed[active / tensor.elements] += size
            else:
                other += size
        return cls(model, spec, params, matrix, matrix_bytes, matrix_bytes + other, packed, packed_bytes, routed)

    def step_bytes(self, batch: float) -> float:
        """Bytes of matrices that a decode step of `batch` sequences reads, if tokens are routed evenly."""
        return self.matrix_bytes - sum(size * (1 - share) ** batch for share, size in self.routed.items())

    @property
    def _parts(self) -> list[Part]:
        return [part for part in (self.spec.mixer, self.spec.ffn) if part is not None]

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of KV cache for one sequence of `ctx` tokens."""
        return sum(part.cache_bytes(self.model, ctx) for part in self._parts)

    def beyond_weights(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`, without the products with weights."""
        return sum(part.decode_flops(self.model, ctx) for part in self._parts)

    def flops(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`."""
        return 2 * self.matrix + self.beyond_weights(ctx)

    def prefill_flops(self, n: int) -> int:
        """FLOPs of a prefill of `n` tokens."""
        return 2 * n * self.matrix + sum(part.prefill_flops(self.model, n) for part in self._parts)


@dataclass(frozen=True)
class StaticValue:
    """A cost of the changed model with its name in recipes, known before anything is measured.

    `of` gives the share of one layer at a context length (ignored if `takes_context` is False), `outside` that of the
    rest of the model. `meaning` is shown by the editor and by `explain`.
    """

    name: str
    unit: Unit
    takes_context: bool
    of: Callable[[LayerCost, int], int]
    outside: Callable[[Sized], int]
    meaning: str


STATIC_VALUES: Mapping[str, StaticValue] = MappingProxyType(
    {
        value.name: value
        for value in (
            StaticValue(
                "kv",
                Unit.BYTES,
                True,
                lambda layer, ctx: layer.kv_bytes(ctx),
                lambda facts: 0,
                "Bytes of keys and values that one sequence of CTX tokens holds.",
            ),
            StaticValue(
                "flops",
                Unit.FLOPS,
                True,
                lambda layer, ctx: layer.flops(ctx),
                lambda facts: 2 * facts.hidden * facts.vocab,
                "FLOPs of decoding one token after CTX tokens.",
            ),
            StaticValue(
                "params",
                Unit.PARAMS,
                False,
                lambda layer, ctx: layer.params,
                lambda facts: facts.other_params,
                "Parameters of the changed model.",
            ),
            StaticValue(
                "weights",
                Unit.BYTES,
                False,
                lambda layer, ctx: layer.weights,
                lambda facts: facts.other_params * facts.dtype_bytes,
                "Bytes of the changed model's weights, as they are stored.",
            ),
        )
    }
)
"""The static values by name. A percentage compared with one of them is a share of the base model's value."""

MEMORY_SHARE = 0.9
"""The share of the machine's memory that weights and KV caches may fill."""


@dataclass(frozen=True)
class Machine:
    """Constants of one device in one dtype, measured by `lbdsl.measure.calibrate`.

    bandwidth: bytes/s, read and written, of a large copy. flops: FLOP/s of a large matrix product (a multiply and an
    add are two). mem_bytes: memory of the device. t_attn, t_mlp: seconds that one attention and one MLP sub-block of
    a decode step take when their matrices are tiny, that is launch and overhead time; t_head: the same for everything
    outside the layers. packed_flops: FLOP/s of products with quantized weights, if they differ.
    """

    bandwidth: float
    flops: float
    mem_bytes: float
    t_attn: float = 0.0
    t_mlp: float = 0.0
    t_head: float = 0.0
    packed_flops: float | None = None

    def product_seconds(self, matrix: float, packed: float) -> float:
        """Seconds of arithmetic of products with so many elements of matrices, of which `packed` are quantized."""
        return 2 * ((matrix - packed) / self.flops + packed / (self.packed_flops or self.flops))


@dataclass(frozen=True)
class ModelCost:
    """The costs of one model, computed from those of its layers. `is_base`: of the model that was read, as it is, and not
    of an artifact, even of one with the same layers."""

    facts: Sized
    layers: tuple[LayerCost, ...]
    is_base: bool = field(default=False, compare=False)

    def value(self, name: str, ctx: int = 0) -> int:
        """The static value `name` (see `STATIC_VALUES`), at context length `ctx` if it takes one."""
        static = STATIC_VALUES[name]
        return static.outside(self.facts) + sum(static.of(layer, ctx) for layer in self.layers)

    @property
    def params(self) -> int:
        """All parameters; a tied head counts once."""
        return self.value("params")

    @property
    def weights(self) -> int:
        """Bytes of all weights, as they are stored."""
        return self.value("weights")

    @property
    def _head(self) -> int:
        return self.facts.hidden * self.facts.vocab

    @property
    def matrix(self) -> int:
        """Elements of matrices that a decoded token is multiplied with, including the head (hidden x vocabulary)."""
        return self._head + sum(layer.matrix for layer in self.layers)

    @property
    def packed(self) -> int:
        """Those of them that are quantized."""
        return sum(layer.packed for layer in self.layers)

    def step_bytes(self, batch: float) -> float:
        """Bytes of these matrices, as they are stored, that a step of `batch` sequences reads."""
        return self._head * self.facts.dtype_bytes + sum(layer.step_bytes(batch) for layer in self.layers)

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of KV cache for one sequence of `ctx` tokens."""
        return self.value("kv", ctx)

    def flops(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`; a multiply and an add are two."""
        return self.value("flops", ctx)

    def prefill_flops(self, n: int) -> int:
        """FLOPs of a prefill of `n` tokens and predicting one; the head runs once."""
        return 2 * self._head + sum(layer.prefill_flops(n) for layer in self.layers)

    def step_seconds(self, machine: Machine, ctx: int, batch: float) -> float:
        """Seconds of one decode step of `batch` sequences at context `ctx`."""
        arithmetic = machine.product_seconds(batch * self.matrix, batch * self.packed)
        products = max(self.step_bytes(batch) / machine.bandwidth, arithmetic)
        beyond_weights = sum(layer.beyond_weights(ctx) for layer in self.layers)
        attention = batch * max(self.kv_bytes(ctx) / machine.bandwidth, beyond_weights / machine.flops)
        mixers = sum(layer.spec.mixer is not None for layer in self.layers)
        ffns = sum(layer.spec.ffn is not None for layer in self.layers)
        return products + attention + mixers * machine.t_attn + ffns * machine.t_mlp + machine.t_head

    def prefill_seconds(self, machine: Machine, n: int) -> float:
        """Seconds of a prefill of `n` tokens."""
        packed = n * self.packed
        arithmetic = (self.prefill_flops(n) - 2 * packed) / machine.flops + machine.product_seconds(packed, packed)
        return max(self.step_bytes(n) / machine.bandwidth, arithmetic)

    def fitting_batch(self, machine: Machine, ctx: int) -> float:
        """The number of sequences of `ctx` tokens that fit in memory with the weights; infinite without a cache, 0 if the
        weights do not fit."""
        free = machine.mem_bytes * MEMORY_SHARE - self.weights
        cache = self.kv_bytes(ctx)
        if free <= 0:
            return 0.0
        return free / cache if cache else float("inf")

    def tokens_per_second(self, machine: Machine, ctx: int, batch: int) -> float:
        """Decoded tokens per second for `batch` sequences; those that do not fit in memory wait. 0 if none fits."""
        admitted = min(float(batch), self.fitting_batch(machine, ctx))
        return admitted / self.step_seconds(machine, ctx, admitted) if admitted > 0 else 0.0


def model_cost(facts: Sized, specs: Iterable[LayerSpec]) -> ModelCost:
    """The costs of a model with these layers."""
    known = cache(lambda spec: LayerCost.of(spec, facts))
    return ModelCost(facts, tuple(known(spec) for spec in specs))
