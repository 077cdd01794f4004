"""What one sub-block of one layer costs: the formulas of a plan are sums of these.

Source of the formulas: the cost model of the project (docs/costs.md). FLOPs count a multiply and an add as two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lbdsl.core.facts import ModelFacts

Tokens = int


def _nothing(_tokens: Tokens) -> int:
    return 0


@dataclass(frozen=True)
class SubBlockCost:
    """Cost of an attention sub-block or of an MLP, each with its norm.

    params:         parameters kept, norms and biases included
    matmul_params:  those that a decoded token multiplies with (2 FLOPs each)
    kv_bytes:       bytes of cache storage that one sequence of `ctx` tokens holds
    decode_flops:   FLOPs of one decoded token at context `ctx`, beyond 2 * matmul_params
    prefill_flops:  FLOPs of a prefill of `n` tokens, beyond 2 * n * matmul_params
    """

    params: int
    matmul_params: int
    kv_bytes: Callable[[Tokens], int] = _nothing
    decode_flops: Callable[[Tokens], int] = _nothing
    prefill_flops: Callable[[Tokens], int] = _nothing


NO_COST = SubBlockCost(params=0, matmul_params=0)


def attention_cost(facts: ModelFacts, layer: int, window: int | None = None) -> SubBlockCost:
    """Softmax attention with a KV cache. `window` is how many tokens are seen and held at most; None for what the layer
    has by itself. Nothing for a layer whose attention is gone already."""
    if facts.native_window[layer] == 0:
        return NO_COST
    bound = facts.native_window[layer] if window is None else window

    def visible(ctx: Tokens) -> int:
        return ctx if bound is None else min(ctx, bound)

    per_pair = 4 * facts.heads * facts.head_dim

    def prefill(n: Tokens) -> int:
        v = visible(n)
        return per_pair * (2 * n * v - v * v) // 2

    return SubBlockCost(
        params=facts.attention_params[layer],
        matmul_params=facts.hidden * facts.head_dim * (2 * facts.heads + 2 * facts.kv_heads),
        kv_bytes=lambda ctx: facts.layer_kv_bytes_per_token * visible(ctx),
        decode_flops=lambda ctx: per_pair * visible(ctx),
        prefill_flops=prefill,
    )


def mlp_cost(facts: ModelFacts, layer: int) -> SubBlockCost:
    """A gated MLP: three matrices of hidden x intermediate; nothing where it is gone already."""
    if facts.mlp_params[layer] == 0:
        return NO_COST
    return SubBlockCost(params=facts.mlp_params[layer], matmul_params=3 * facts.hidden * facts.intermediate)
