"""The cost formulas against the published table of bounds, and against counts done by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from lbdsl.actions.drop import Drop
from lbdsl.actions.keep import Keep
from lbdsl.actions.swa import SlidingWindow
from lbdsl.cost.cost import LayerCost, Machine, ModelCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.plan.estimate import decode_bounds
from tests.plan_cases import changed_cost, llama_facts, smollm2_facts, token_bytes

H100 = Machine(3.35e12, 989e12, 80e9)


def quarter_plan(facts: ModelFacts) -> ModelCost:
    """25 % keep, 50 % swa(512), 25 % drop: exact shares, so of 30 layers seven and a half are kept."""
    whole, half = divmod(facts.layers // 2, 2)
    layers = [[Keep()]] * whole + [[]] * half + [[SlidingWindow(window=512)]] * (facts.layers // 2)
    cost = changed_cost(facts, layers + [[Drop()]] * (facts.layers - len(layers)))
    if not half:
        return cost
    base, dropped = cost.layers[whole], cost.layers[-1]
    return replace(cost, layers=(*cost.layers[:whole], HalfAttention(base, dropped), *cost.layers[whole + 1 :]))


@dataclass(frozen=True)
class HalfAttention:
    """A layer whose attention costs half of what it does."""

    whole: LayerCost
    without: LayerCost

    @property
    def spec(self):
        return self.whole.spec

    def __getattr__(self, name):
        one, other = getattr(self.whole, name), getattr(self.without, name)
        return (one + other) // 2 if isinstance(one, int) else lambda ctx: (one(ctx) + other(ctx)) // 2


def llama3_8b() -> ModelFacts:
    return llama_facts(
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=14336,
        vocab=128256,
        positions=131072,
        tied=False,
    )


@pytest.mark.parametrize(
    ("facts", "ctx", "expected"),
    [
        (llama3_8b(), 4096, (1.07, 1.84, 2.21, 2.84)),
        (llama3_8b(), 16384, (1.15, 3.18, 3.81, 3.81)),
        (smollm2_facts(), 1024, (1.09, 1.71, 1.83, 1.91)),
        (smollm2_facts(), 16384, (1.82, 3.63, 3.70, 3.73)),
    ],
    ids=["llama-4k", "llama-16k", "smollm2-1k", "smollm2-16k"],
)
def test_bounds_of_the_published_table(facts, ctx, expected):
    speeds = decode_bounds(facts.cost, quarter_plan(facts), H100, [(ctx, b) for b in (1, 50, 100, 200)])
    assert [speed.bound for speed in speeds] == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("ctx", "factor"), [(1024, 2.0), (4096, 3.2), (16384, 3.76), (32768, 3.88)])
def test_cache_falls_as_published(ctx, factor):
    facts = llama3_8b()
    assert facts.cost.kv_bytes(ctx) / quarter_plan(facts).kv_bytes(ctx) == pytest.approx(factor, abs=0.005)


def test_smollm2_counts():
    cost = smollm2_facts().cost
    assert cost.params == 134_515_008
    assert cost.kv_bytes(1) == 23_040
    assert cost.kv_bytes(8192) == 180 * 2**20


def test_flops_by_hand():
    facts = llama_facts(layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=32)
    a, f, h = 8 * 4 * (2 * 2 + 2 * 1), 3 * 8 * 16, 8 * 32
    cost = changed_cost(facts, [[SlidingWindow(window=3, sinks=1)], [Keep()]])
    assert cost.matrix == 2 * a + 2 * f + h
    assert cost.flops(10) == 2 * (2 * a + 2 * f + h) + 4 * 2 * 4 * (10 + 4)
    n, v = 10, 4
    assert cost.prefill_flops(n) == 2 * n * (2 * a + 2 * f) + 2 * h + 4 * 2 * 4 * (n * n // 2 + n * v - v * v // 2)
    dropped = changed_cost(facts, [[Drop()], [Drop()]])
    assert dropped.kv_bytes(100) == 0
    assert dropped.fitting_batch(H100, 100) == float("inf")
    assert dropped.params == facts.cost.params - 2 * (a + 8)


def test_native_window_bounds_a_kept_layer():
    facts = llama_facts(native_window=128)
    assert facts.cost.kv_bytes(1000) == 4 * 128 * token_bytes(facts)
    wider = changed_cost(facts, [[SlidingWindow(window=256)]] * 4)
    assert wider.kv_bytes(1000) == facts.cost.kv_bytes(1000)


def test_a_base_that_does_not_fit_has_no_bound():
    small = Machine(1e9, 1e9, 1000)
    cost = llama_facts().cost
    assert cost.tokens_per_second(small, 64, 1) == 0.0
    assert decode_bounds(cost, cost, small, [(64, 1)]) == ()


def test_per_layer_times_count_the_sub_blocks_that_are_left():
    facts = llama_facts(layers=3)
    slow = Machine(1e30, 1e30, 1e12, t_attn=1.0, t_mlp=10.0, t_head=100.0)
    cost = changed_cost(facts, [[Drop()], [Keep()], [SlidingWindow(window=4)]])
    assert cost.step_seconds(slow, 64, 1) == pytest.approx(2 * 1.0 + 3 * 10.0 + 100.0)
