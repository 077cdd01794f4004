"""What a model costs under a choice of actions, and the decode time those costs allow. Formulas only, nothing measured.

Parameters, cache bytes and FLOPs are exact counts from shapes. Times are lower bounds for given machine constants: the
weights are read once a step, each sequence's cache once a step, and arithmetic runs at the machine's GEMM rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lbdsl.actions import Action, Aspect
from lbdsl.core.costs import SubBlockCost, attention_cost, mlp_cost
from lbdsl.core.facts import ModelFacts
from lbdsl.plan.schema import Plan, Speed, Totals

MEMORY_SHARE = 0.9
"""The share of the machine's memory that weights and caches may fill."""


class MachineConstants(Protocol):
    """Calibrated constants of one machine: bytes/s, FLOP/s, bytes, and seconds a layer and step."""

    @property
    def bandwidth(self) -> float: ...
    @property
    def flops(self) -> float: ...
    @property
    def mem_bytes(self) -> float: ...
    @property
    def t_attn(self) -> float: ...
    @property
    def t_mlp(self) -> float: ...
    @property
    def t_head(self) -> float: ...


@dataclass(frozen=True)
class ModelCost:
    """The costs of one model: its shapes and, for each layer, those of the mixer and of the MLP."""

    facts: ModelFacts
    mixers: tuple[SubBlockCost, ...]
    ffns: tuple[SubBlockCost, ...]

    @property
    def _blocks(self) -> tuple[SubBlockCost, ...]:
        return self.mixers + self.ffns

    @property
    def params(self) -> int:
        """All parameters; a tied head counts once."""
        return self.facts.other_params + sum(block.params for block in self._blocks)

    @property
    def step_weights(self) -> int:
        """Weights that a decoded token multiplies with, the head (hidden x vocabulary) among them."""
        return self.facts.hidden * self.facts.vocab + sum(block.matmul_params for block in self._blocks)

    def layer_params(self, layer: int) -> int:
        return self.mixers[layer].params + self.ffns[layer].params

    def layer_kv_bytes(self, layer: int, ctx: int) -> int:
        return self.mixers[layer].kv_bytes(ctx) + self.ffns[layer].kv_bytes(ctx)

    def kv_bytes(self, ctx: int) -> int:
        """Bytes of cache that one sequence of `ctx` tokens holds."""
        return sum(block.kv_bytes(ctx) for block in self._blocks)

    def attention_flops(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`, beyond its matrix products with weights."""
        return sum(block.decode_flops(ctx) for block in self._blocks)

    def flops(self, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`; a multiply and an add are two."""
        return 2 * self.step_weights + self.attention_flops(ctx)

    def layer_flops(self, layer: int, ctx: int) -> int:
        blocks = (self.mixers[layer], self.ffns[layer])
        return sum(2 * block.matmul_params + block.decode_flops(ctx) for block in blocks)

    def prefill_flops(self, n: int) -> int:
        """FLOPs of reading `n` tokens and predicting one; the head runs once."""
        head = 2 * self.facts.hidden * self.facts.vocab
        return head + sum(2 * n * block.matmul_params + block.prefill_flops(n) for block in self._blocks)

    def totals(self, contexts: Iterable[int]) -> Totals:
        contexts = tuple(contexts)
        return Totals(
            params=self.params,
            kv_bytes={str(c): self.kv_bytes(c) for c in contexts},
            flops_per_token={str(c): self.flops(c) for c in contexts},
        )

    def step_seconds(self, machine: MachineConstants, ctx: int, batch: float) -> float:
        """Seconds of one decode step of `batch` sequences at context `ctx`."""
        weights = self.step_weights
        products = max(weights * self.facts.dtype_bytes / machine.bandwidth, 2 * batch * weights / machine.flops)
        attention = batch * max(self.kv_bytes(ctx) / machine.bandwidth, self.attention_flops(ctx) / machine.flops)
        mixers = sum(block.matmul_params > 0 for block in self.mixers)
        ffns = sum(block.matmul_params > 0 for block in self.ffns)
        return products + attention + mixers * machine.t_attn + ffns * machine.t_mlp + machine.t_head

    def fitting_batch(self, machine: MachineConstants, ctx: int) -> float:
        """How many sequences of `ctx` tokens fit beside the weights; infinite without a cache, 0 if the weights do not
        fit."""
        free = machine.mem_bytes * MEMORY_SHARE - self.params * self.facts.dtype_bytes
        cache = self.kv_bytes(ctx)
        if free <= 0:
            return 0.0
        return free / cache if cache else float("inf")

    def tokens_per_second(self, machine: MachineConstants, ctx: int, batch: int) -> float:
        """Decoded tokens a second when `batch` sequences are wanted; those that do not fit wait. 0 if none fits."""
        admitted = min(float(batch), self.fitting_batch(machine, ctx))
        return admitted / self.step_seconds(machine, ctx, admitted) if admitted > 0 else 0.0


def base_cost(facts: ModelFacts) -> ModelCost:
    """The unchanged model."""
    layers = range(facts.layers)
    return ModelCost(facts, tuple(attention_cost(facts, i) for i in layers), tuple(mlp_cost(facts, i) for i in layers))


BlockCosts = dict[tuple[int, Action], Mapping[Aspect, SubBlockCost]]
"""Costs already asked for, by layer and action."""


def changed_cost(base: ModelCost, actions: Sequence[Iterable[Action]], known: BlockCosts | None = None) -> ModelCost:
    """The model whose layer i has `actions[i]`; a sub-block that no action names costs what it did. `known` is filled,
    so that a caller who tries many plans asks each action only once a layer."""
    mixers, ffns = list(base.mixers), list(base.ffns)
    known = {} if known is None else known
    for layer, chosen in enumerate(actions):
        for action in chosen:
            if (layer, action) not in known:
                known[layer, action] = action.cost(base.facts, layer)
            cost = known[layer, action]
            mixers[layer] = cost.get(Aspect.MIXER, mixers[layer])
            ffns[layer] = cost.get(Aspect.FFN, ffns[layer])
    return ModelCost(base.facts, tuple(mixers), tuple(ffns))


def plan_cost(facts: ModelFacts, plan: Plan) -> ModelCost:
    """The model that a plan makes."""
    return changed_cost(base_cost(facts), [[planned.action for planned in layer.actions] for layer in plan.layers])


def decode_bounds(
    before: ModelCost,
    after: ModelCost,
    machine: MachineConstants,
    cells: Iterable[tuple[int, int]],
) -> tuple[Speed, ...]:
    """Upper bounds on the decode gain at each (context, batch); cells in which the base does not fit are left out."""
    speeds = []
    for ctx, batch in cells:
        was, becomes = (cost.tokens_per_second(machine, ctx, batch) for cost in (before, after))
        if was > 0:
            speeds.append(Speed(context=ctx, batch=batch, bound=becomes / was))
    return tuple(speeds)
