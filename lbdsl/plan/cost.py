"""What a model costs, from its layers, and the decode time those costs allow. Formulas only, nothing measured.

Parameters, bytes of weights and cache, and FLOPs are exact counts from shapes. Times are lower bounds for given machine
constants: the weights are read once a step, each sequence's cache once a step, and arithmetic runs at the machine's GEMM
rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from lbdsl.layer.cost import STATIC_VALUES, LayerCost
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec

MEMORY_SHARE = 0.9
"""The share of the machine's memory that weights and caches may fill."""


@dataclass(frozen=True)
class Machine:
    """Constants of one device in one dtype, measured by `lbdsl.measure.calibrate`.

    bandwidth: bytes/s, read and written, of a large copy. flops: FLOP/s of a large matrix product (a multiply and an
    add are two). mem_bytes: memory of the device. t_attn, t_mlp: seconds that one attention and one MLP sub-block of
    a decode step take when their matrices are tiny, that is launching and bookkeeping; t_head: the same of all that
    is outside the layers.
    """

    bandwidth: float
    flops: float
    mem_bytes: float
    t_attn: float
    t_mlp: float
    t_head: float


@dataclass(frozen=True)
class ModelCost:
    """The costs of one model, from those of its layers."""

    facts: ModelFacts
    layers: tuple[LayerCost, ...]

    def value(self, name: str, ctx: int = 0) -> int:
        """A static value of the language (see `STATIC_VALUES`), at a context where it takes one."""
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
        """Elements of matrices that a decoded token multiplies with, the head (hidden x vocabulary) among them."""
        return self._head + sum(layer.matrix for layer in self.layers)

    @property
    def step_bytes(self) -> int:
        """Bytes of those, as they are stored."""
        return self._head * self.facts.dtype_bytes + sum(layer.matrix_bytes for layer in self.layers)

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of cache that one sequence of `ctx` tokens holds."""
        return self.value("kv", ctx)

    def flops(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`; a multiply and an add are two."""
        return self.value("flops", ctx)

    def prefill_flops(self, n: int) -> int:
        """FLOPs of reading `n` tokens and predicting one; the head runs once."""
        return 2 * self._head + sum(layer.prefill_flops(n) for layer in self.layers)

    def step_seconds(self, machine: Machine, ctx: int, batch: float) -> float:
        """Seconds of one decode step of `batch` sequences at context `ctx`."""
        products = max(self.step_bytes / machine.bandwidth, 2 * batch * self.matrix / machine.flops)
        beyond_weights = sum(layer.beyond_weights(ctx) for layer in self.layers)
        attention = batch * max(self.kv_bytes(ctx) / machine.bandwidth, beyond_weights / machine.flops)
        mixers = sum(layer.spec.mixer is not None for layer in self.layers)
        ffns = sum(layer.spec.ffn is not None for layer in self.layers)
        return products + attention + mixers * machine.t_attn + ffns * machine.t_mlp + machine.t_head

    def fitting_batch(self, machine: Machine, ctx: int) -> float:
        """How many sequences of `ctx` tokens fit beside the weights; infinite without a cache, 0 if the weights do not
        fit."""
        free = machine.mem_bytes * MEMORY_SHARE - self.weights
        cache = self.kv_bytes(ctx)
        if free <= 0:
            return 0.0
        return free / cache if cache else float("inf")

    def tokens_per_second(self, machine: Machine, ctx: int, batch: int) -> float:
        """Decoded tokens a second when `batch` sequences are wanted; those that do not fit wait. 0 if none fits."""
        admitted = min(float(batch), self.fitting_batch(machine, ctx))
        return admitted / self.step_seconds(machine, ctx, admitted) if admitted > 0 else 0.0


def model_cost(facts: ModelFacts, specs: Iterable[LayerSpec]) -> ModelCost:
    """A model with these layers."""
    known = cache(lambda spec: LayerCost.of(spec, facts))
    return ModelCost(facts, tuple(known(spec) for spec in specs))


def base_cost(facts: ModelFacts) -> ModelCost:
    """The unchanged model."""
    return model_cost(facts, facts.layer_specs)
