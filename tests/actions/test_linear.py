"""What `linear` cannot be used on, and what a layer becomes."""

from __future__ import annotations

import pytest

from lbdsl.actions.linear import Linear
from lbdsl.cost.cost import LayerCost
from lbdsl.parts.linear import LinearAttention
from tests.export_cases import base_facts
from tests.plan_cases import llama_facts


@pytest.mark.parametrize(
    ("family", "window", "code", "said"),
    [
        ("gemma2", 8, "LB404", "capped"),
        ("mistral", 8, "LB404", "by themselves"),
        ("llama", 2**20, "LB326", "half of the model's"),
    ],
)
def test_what_it_is_refused_on(family: str, window: int, code: str, said: str) -> None:
    _, facts = base_facts(family)
    layer = next(i for i, spec in enumerate(facts.layer_specs) if (spec.mixer.sees is not None) == (family == "mistral"))
    (problem,) = Linear(window=window).check(facts, layer)
    assert (problem.code, problem.is_error) == (code, True)
    assert said in problem.message


@pytest.mark.parametrize("features", ["hedgehog", "elu"])
def test_its_state_is_as_large_at_any_length(features: str) -> None:
    facts = llama_facts(layers=2)
    change = Linear(window=64, features=features).under(facts, 0)
    assert change is not None
    mixer = change.spec.mixer
    assert isinstance(mixer, LinearAttention)
    size = mixer.head_dim * (2 if features == "hedgehog" else 1)
    state = 4 * mixer.kv_heads * (size * mixer.head_dim + size)
    of_window = 64 * 2 * mixer.kv_heads * mixer.head_dim * facts.dtype_bytes
    cost = LayerCost.of(change.spec, facts)
    assert [cost.kv_bytes(ctx) for ctx in (64, 65, 8192)] == [of_window, of_window + state, of_window + state]
    assert cost.flops(128) == cost.flops(8192) > cost.flops(64)
    learned = {name for name, _ in change.weights}
    assert learned == {tensor.name for tensor in facts.shaped(mixer.own_rows, mixer.dims())}
    assert len(learned) == (3 if features == "hedgehog" else 1)
