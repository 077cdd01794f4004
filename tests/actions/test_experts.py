"""`experts` against a loop over tokens in plain torch, and against stock models whose experts were cut by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from lbdsl.actions.experts import Experts
from lbdsl.core.units import Share
from lbdsl.cost.cost import model_cost
from lbdsl.families import FAMILIES
from lbdsl.model.surgery import to_hybrid
from tests.actions.test_kv_heads import assert_same, changed, changes_of, facts_of, logits_of, statistics_of, text
from tests.family_cases import each_family, family_base
from tests.plan_cases import smollm2_facts

pytestmark = pytest.mark.torch

WITH_EXPERTS = tuple(name for name, row in FAMILIES.items() if "moe" in row.rows)
LAYERS = (0, 2, 3)
METHODS = ("reap", "frequency", "norm")
TEXT = text(10, 41)
"""Hardly two experts of a layer are used equally often on it."""


def block_of(model, layer: int):
    """The router and the experts of a layer."""
    return model.model.layers[layer].get_submodule(FAMILIES[model.config.model_type].ffn_name)


def output_of(experts, expert: int, hidden: Tensor) -> Tensor:
    """One expert for one token, by the family's formula."""
    if not hasattr(experts, "gate_up_proj_bias"):
        first, second = linear(hidden, experts.gate_up_proj[expert]).double().chunk(2)
        return experts.down_proj[expert].double() @ (experts.act_fn(first) * second)
    both = (hidden @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]).double()
    gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
    inside = (up + 1) * gate * (1.702 * gate).sigmoid()
    return inside @ experts.down_proj[expert].double() + experts.down_proj_bias[expert].double()


@torch.no_grad()
def importance(base, layer: int, ids: Tensor, method: str) -> list[float]:
    """Of each expert of a layer, token by token."""
    experts, seen = block_of(base, layer).experts, []
    hook = experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    for row in ids:
        base(input_ids=row[None], use_cache=False)
    hook.remove()
    values: list[list[float]] = [[] for _ in range(len(experts.down_proj))]
    for hidden, index, weights in seen:
        for token in range(len(hidden)):
            for expert, gate in zip(index[token].tolist(), weights[token].tolist(), strict=True):
                output = output_of(experts, expert, hidden[token])
                values[expert].append({"reap": gate, "norm": 1.0}.get(method, 0.0) * float(output.norm()))
    if method == "frequency":
        return [float(len(of_one)) for of_one in values]
    return [sum(of_one) / (len(of_one) or 1) if method == "reap" else sum(of_one) for of_one in values]


@torch.no_grad()
def cut(base, kept: dict[int, list[int]]):
    """The stock model with only these experts in each of some layers."""
    made = copy.deepcopy(base)
    for layer, experts in kept.items():
        block = block_of(made, layer)
        router = block.gate if hasattr(block, "gate") else block.router
        for owner in (router, block.experts):
            for name, parameter in owner.named_parameters():
                setattr(owner, name, torch.nn.Parameter(parameter[experts].clone()))
        router.num_experts = block.experts.num_experts = len(experts)
    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", each_family(WITH_EXPERTS))
def test_what_experts_matter(family: str, method: str) -> None:
    base, ids = family_base(family), TEXT
    facts = facts_of(base)
    changes = changes_of(facts, Experts(n=4, method=method), LAYERS)
    statistics = statistics_of(to_hybrid(copy.deepcopy(base)), facts, changes, ids)
    for layer in LAYERS:
        (value,) = statistics(layer).values()
        wanted = torch.tensor(importance(base, layer, ids, method))
        assert torch.allclose(value, wanted, rtol=1e-4)
        assert len(set(wanted.tolist())) > 4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", each_family(WITH_EXPERTS))
def test_logits_are_those_of_experts_cut_by_hand(family: str, method: str) -> None:
    base, ids = family_base(family), text(2, 30, seed=5)
    kept = {}
    for layer in LAYERS:
        values = importance(base, layer, TEXT, method)
        kept[layer] = sorted(sorted(range(6), key=values.__getitem__)[-3:])
    found = logits_of(changed(base, Experts(n=Share(0.5), method=method), TEXT, LAYERS), ids)
    assert_same(found, logits_of(cut(base, kept), ids))
    assert (found - logits_of(base, ids)).abs().max() > 0.05


def test_parameters_and_bytes_that_a_step_reads() -> None:
    """Half of the experts are half of their weights; a token is multiplied with as many as before."""
    facts = facts_of(family_base("mixtral"))
    change = Experts(n=3).under(facts, 1)
    assert change is not None
    specs = list(facts.layer_specs)
    specs[1] = change.spec
    before, after = facts.cost, model_cost(facts, specs)
    expert, router = 3 * 32 * 48, 32
    assert before.params - after.params == 3 * (expert + router)
    assert before.layers[1].matrix - after.layers[1].matrix == 3 * router
    one, many = (before.layers[1].step_bytes(batch) for batch in (1, 10**6))
    assert many == before.layers[1].matrix_bytes
    assert many - one == pytest.approx(4 * (6 - 2) * expert)
    both = before.layers[1].step_bytes(2)
    # Two tokens, each with two of six: an expert is left alone with (2 / 3)^2.
    assert many - both == pytest.approx(4 * 6 * expert * (4 / 6) ** 2)


@pytest.mark.parametrize(
    ("n", "layer", "code", "said"),
    [
        (6, 0, "LB319", "asks for all of 6 experts, of which a token gets 2"),
        (1, 0, "LB319", "asks for 1 of 6 experts"),
        (3, 1, "LB404", "`gated_mlp`"),
        (2, 0, None, ""),
    ],
)
def test_numbers_that_a_layer_cannot_have(n: int, layer: int, code: str | None, said: str) -> None:
    facts = facts_of(family_base("qwen3_moe"))
    found = Experts(n=n).check(facts, layer)
    assert [d.code for d in found] == ([code] if code else [])
    assert all(said in d.message and d.help for d in found)
    if code == "LB319":
        change = Experts(n=n).under(facts, layer)
        assert change is not None
        assert change.spec == facts.layer_specs[layer]
        assert not change.weights


def test_dense_models_have_no_experts() -> None:
    assert [d.code for d in Experts(n=2).check(smollm2_facts(), 0)] == ["LB404"]
