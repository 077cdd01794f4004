"""`kv_heads`: its weights against the same surgery in plain torch on stock models, and what it says of a model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from lbdsl.actions.kv_heads import KVHeads
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.difference import changes_text
from lbdsl.layer.weights import Concat, LayerChange, MatMul, Mean, stats_by_layer
from lbdsl.measure.expressions import made_of, tensor_of
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.statistics import Statistics, take_statistics
from lbdsl.model.layout import layout_of
from lbdsl.model.surgery import to_hybrid
from lbdsl.parts.attention import Attention
from lbdsl.plan.findings import static_findings
from lbdsl.solve.case import Case
from tests.by_hand import GATED, NORMED, NORMED_TOGETHER, Heads, kv_heads_by_hand, pairs_of
from tests.family_cases import FAMILY_NAMES, VOCAB, each_family, family_base
from tests.plan_cases import joint_loss, plan_of, recipe_of, smollm2_facts

pytestmark = pytest.mark.torch

FEW = {"num_attention_heads": 4, "num_key_value_heads": 2}
MANY = {"num_attention_heads": 8, "num_key_value_heads": 4}
CHANGED = (1, 2)
KEYS_TURN = tuple(name for name in FAMILY_NAMES if name not in NORMED)
CALLS = {
    "mean": KVHeads(n=1),
    "plain": KVHeads(n=1, align=False),
    "strongest": KVHeads(n=1, method="strongest"),
}


def facts_of(base) -> ModelFacts:
    return layout_of(base.config.to_dict()).facts("float32")


def text(rows: int = 8, length: int = 48, seed: int = 3) -> Tensor:
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """To 1e-5 of the largest logit, in float32."""
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def statistics_of(hybrid, facts: ModelFacts, changes: Mapping[int, LayerChange], ids: Tensor) -> Statistics:
    blocks = TokenBlocks(ids, "", "random", 1, None)
    wanted = stats_by_layer({layer: [expr for _, expr in change.weights] for layer, change in changes.items()})
    with TemporaryDirectory() as folder:
        found = take_statistics(lambda: LoadedModel(hybrid), facts, wanted, blocks, Path(folder), "0" * 64)
        values = {layer: found(layer) for layer in wanted}
    return Statistics(lambda layer: values.get(layer, {}))


def changes_of(facts: ModelFacts, action: KVHeads, layers: Iterable[int]) -> dict[int, LayerChange]:
    found = {layer: action.under(facts, layer) for layer in layers}
    return {layer: change for layer, change in found.items() if change is not None}


def changed(base, action: KVHeads, ids: Tensor, layers=CHANGED):
    """The base's hybrid with some layers changed, all on statistics of the base."""
    facts, model = facts_of(base), to_hybrid(copy.deepcopy(base))
    changes = changes_of(facts, action, layers)
    statistics = statistics_of(model, facts, changes, ids)
    for layer, change in changes.items():
        model.set_layer(layer, change.spec.to_json(), made_of(model, layer, change.weights, statistics(layer)))
    return model


@pytest.mark.parametrize("sizes", [FEW, MANY], ids=["2 to 1", "4 to 2"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", each_family())
def test_logits_equal_the_same_surgery_in_plain_torch(family: str, call: str, sizes: dict) -> None:
    base = family_base(family, **sizes, **({"attention_bias": True} if family in (*NORMED_TOGETHER, "smollm3") else {}))
    action = CALLS[call].model_copy(update={"n": sizes["num_key_value_heads"] // 2})
    calibration, ids = text(), text(2, 30, seed=5)
    found, wanted = (
        logits_of(changed(base, action, calibration), ids),
        logits_of(kv_heads_by_hand(base, action, calibration, CHANGED), ids),
    )
    assert not torch.allclose(found, logits_of(base, ids), atol=1e-3)
    assert_same(found, wanted)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("family", each_family(KEYS_TURN))
def test_aligning_alone_changes_nothing(family: str, biases: bool) -> None:
    base = family_base(family, **MANY, **({} if family in ("qwen2", "phi3", "mistral") else {"attention_bias": biases}))
    facts, made, ids = facts_of(base), copy.deepcopy(base), text(2, 30, seed=5)
    changes = changes_of(facts, KVHeads(n=1), CHANGED)
    statistics = statistics_of(to_hybrid(copy.deepcopy(base)), facts, changes, text())
    for layer, change in changes.items():
        owner, stats = base.model.layers[layer], statistics(layer)
        assert len(stats) == 2
        assert all(not torch.allclose(value[3], torch.eye(value.shape[-1]), atol=0.1) for value in stats.values())
        for name, expr in change.weights:
            value = tensor_of(_not_averaged(expr), owner.get_parameter, stats, torch.float32)
            made.model.layers[layer].get_parameter(name).data.copy_(value)
        assert not torch.allclose(made.model.layers[layer].self_attn.o_proj.weight, owner.self_attn.o_proj.weight, atol=0.1)
    assert_same(logits_of(made, ids), logits_of(base, ids))


def _not_averaged(expr):
    if isinstance(expr, Mean):
        assert isinstance(expr.x, MatMul)
        return expr.x
    return expr.model_copy(update={"xs": tuple(map(_not_averaged, expr.xs))}) if isinstance(expr, Concat) else expr


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", each_family())
def test_heads_that_are_alike_become_one_without_loss(family: str, call: str) -> None:
    base, ids = family_base(family, **MANY), text(2, 30, seed=5)
    for layer in CHANGED:
        heads = Heads(base, layer)
        for of in "kv":
            for parts in heads.rows[of].values():
                parts[1:] = [parts[0]] * 3
        heads.put()
        if family in NORMED_TOGETHER:
            norm = heads.attention.k_norm.weight.data
            norm.copy_(norm[: heads.size].repeat(4))
    found = logits_of(changed(base, CALLS[call], text()), ids)
    assert_same(found, logits_of(base, ids))


@pytest.mark.parametrize("family", each_family())
def test_heads_that_are_alike_but_turned_become_one_by_aligning(family: str) -> None:
    base, ids = family_base(family, **FEW), text(2, 30, seed=5)
    for layer in CHANGED:
        heads = Heads(base, layer)
        generator = torch.Generator().manual_seed(layer)
        rotation, _ = torch.linalg.qr(torch.randn(heads.size, heads.size, generator=generator, dtype=torch.float64))
        key = torch.eye(heads.size, dtype=torch.float64)
        if family not in NORMED:
            for a, b in pairs_of(base, heads.size):
                angle = 6 * torch.rand((), generator=generator, dtype=torch.float64)
                key[[a, a, b, b], [a, b, a, b]] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()])
        for of, matrix in (("k", key), ("v", rotation)):
            for parts in heads.rows[of].values():
                parts[1] = matrix @ parts[0]
        heads.put()
    different = logits_of(changed(base, KVHeads(n=1, align=False), text()), ids)
    assert not torch.allclose(different, logits_of(base, ids), atol=1e-2)
    if family not in (*NORMED_TOGETHER, *GATED):
        found = logits_of(changed(base, KVHeads(n=1), text()), ids)
        assert_same(found, logits_of(base, ids))


def test_a_head_that_gives_nothing_leaves_numbers_finite() -> None:
    base = family_base("llama", **MANY, attention_bias=False)
    heads = Heads(base, 1)
    for of in "kv":
        heads.rows[of]["weight"][0].zero_()
        heads.rows[of]["weight"][3].zero_()
    heads.put()
    for call in CALLS.values():
        assert logits_of(changed(base, call, text(), (1,)), text(1, 20)).isfinite().all()


def test_the_strongest_head_is_kept_whole() -> None:
    base = family_base("qwen2", **MANY)
    with torch.no_grad():
        base.model.layers[1].self_attn.o_proj.weight[:, 2 * 4 : 4 * 4] *= 100
    made = changed(base, KVHeads(n=2, method="strongest"), text(), (1,)).model.layers[1].self_attn
    own = base.model.layers[1].self_attn
    for end in ("weight", "bias"):
        for name in ("k_proj", "v_proj"):
            kept, was = (getattr(getattr(module, name), end).split(4) for module in (made, own))
            assert torch.equal(kept[0], was[1])
            assert any(torch.equal(kept[1], was[place]) for place in (2, 3))
    assert made.q_proj.weight is not None
    assert torch.equal(made.q_proj.weight, own.q_proj.weight)
    assert torch.equal(made.o_proj.weight, own.o_proj.weight)


# What it says.


def attention_facts(**sizes: int) -> ModelFacts:
    facts = smollm2_facts()
    spec = facts.layer_specs[0].replace(mixer=facts.layer_specs[0].mixer.replace(**sizes))
    return ModelFacts(**{**facts.__getstate__(), "layer_specs": (spec,) * facts.layers})


@pytest.mark.parametrize(
    ("heads", "kv_heads", "n", "help"),
    [
        (9, 3, 2, "`n` can be 1"),
        (32, 8, 3, "`n` can be 1, 2, 4"),
        (32, 8, 16, "`n` can be 1, 2, 4"),
        (8, 1, 2, "leave those layers out"),
    ],
)
def test_a_number_that_does_not_divide_is_an_error_that_names_those_that_do(heads, kv_heads, n, help) -> None:
    facts = attention_facts(heads=heads, kv_heads=kv_heads)
    (found,) = KVHeads(n=n).check(facts, 0)
    assert (found.code, found.is_error, found.help) == ("LB339", True, (help,))
    assert f"`kv_heads(n={n})`" in found.message
    for line in (f"layers 3 kv_heads({n})", f"lowest 3 by kl(kv_heads({n})) drop", f"where nll < 0.1 kv_heads({n})"):
        stopped = static_findings(Case(recipe_of(f"{line}\nelse keep\n"), facts))
        assert [d.code for d in stopped if d.is_error] == ["LB339"], line
        assert stopped[0].span is not None
    assert Case(recipe_of(f"lowest 3 by kl(kv_heads({n})) drop\n"), facts).measurable().value is None


def test_as_many_heads_as_there_are_change_nothing() -> None:
    (found,) = KVHeads(n=3).check(smollm2_facts(), 0)
    assert (found.code, found.is_error) == ("LB327", False)
    change = KVHeads(n=3).under(smollm2_facts(), 0)
    assert change == LayerChange(smollm2_facts().layer_specs[0])


@pytest.mark.parametrize("family", each_family())
def test_norms_of_keys_are_said(family: str) -> None:
    facts = facts_of(family_base(family))
    found = {call: [d.code for d in action.check(facts, 0)] for call, action in CALLS.items()}
    one = ["LB348"]
    assert found == {
        "mean": one if family in NORMED else [],
        "plain": one if family in NORMED_TOGETHER else [],
        "strongest": [],
    }


def test_a_plan_says_how_many_heads() -> None:
    facts = smollm2_facts()
    plan = plan_of("layers 4-5 kv_heads(1) + swa(window=64)\nelse keep\n", facts, joint=joint_loss(0.0))
    assert plan.changes["with fewer KV heads"] == 2
    before, after = facts.layer_specs[4], plan.specs[4]
    assert isinstance(after.mixer, Attention)
    assert "kv heads 3 -> 1" in changes_text(before, after, "->")
    assert before.mixer.token_bytes(facts) == 3 * after.mixer.token_bytes(facts)
    assert plan.before.params - plan.after.params == 2 * 2 * 2 * 64 * 576
