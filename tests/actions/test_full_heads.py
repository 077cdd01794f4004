"""`swa(full_heads=...)`: outputs and gradients against masks by head in float64, its statistic, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lbdsl.actions.base import together
from lbdsl.actions.kv_heads import KVHeads
from lbdsl.actions.swa import SlidingWindow
from lbdsl.api.checking import check_recipe
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.families import FAMILIES
from lbdsl.layer.weights import stats_in
from lbdsl.measure.expressions import made_of
from lbdsl.model.surgery import to_hybrid
from lbdsl.parts import Window
from lbdsl.parts.attention import SINK_LOGITS
from lbdsl.plan.lengths import windows_of
from lbdsl.recipe.load import recipe_from_text
from lbdsl.solve.case import Case
from lbdsl.solve.select import select
from lbdsl.statistics import Attended, Observed
from lbdsl.statistics import window_harm as harm
from tests.actions.test_kv_heads import facts_of, statistics_of, text
from tests.by_hand import NORMED_TOGETHER, kv_heads_by_hand
from tests.family_cases import FAMILY_NAMES, NATIVE_LAYERS, each_family, family_base
from tests.hybrid_cases import explicit_mask

pytestmark = pytest.mark.torch

MANY = {"num_attention_heads": 8, "num_key_value_heads": 4}
EACH = 2
"""Query heads of a KV head."""
LENGTH = 37


def base_of(family: str):
    windows = {"sliding_window": None} if len(NATIVE_LAYERS[family]) == 4 else {}
    base = family_base(family, **MANY, **windows).double()
    # The grouped products of experts have no float64.
    base.set_experts_implementation("eager")
    return base


def changed_layers(family: str) -> list[int]:
    return [i for i in (1, 2, 3) if i not in NATIVE_LAYERS[family] or len(NATIVE_LAYERS[family]) == 4][:2]


def by_action(base, action, layers: list[int]):
    """The base's hybrid under the action, and the layers' changes."""
    facts, model = facts_of(base), to_hybrid(copy.deepcopy(base))
    changes = {layer: action.under(facts, layer) for layer in layers}
    statistics = statistics_of(to_hybrid(copy.deepcopy(base).float()), facts, changes, text())
    for layer, change in changes.items():
        made = made_of(model, layer, change.weights, statistics(layer))
        model.set_layer(layer, change.spec.to_json(), made)
    return model, {layer: statistics(layer) for layer in layers}


def by_masks(base, full: dict[int, set[int]], window: int, sinks: int, **inputs) -> Tensor:
    """The stock model's logits where all KV heads but the full ones of some layers have the window."""
    real = torch.ones(2, LENGTH, dtype=torch.bool)
    mixer = {"heads": 8, "kv_heads": 4, "window": {"size": window, "sink_tokens": sinks}}
    windowed, whole = explicit_mask(real, {"mixer": mixer}), explicit_mask(real, {"mixer": {**mixer, "window": None}})
    handles = []
    for layer, heads in full.items():
        attention = base.model.layers[layer].self_attn
        mask = torch.cat([whole if head // EACH in heads else windowed for head in range(8)], dim=1).double()
        mask = mask.masked_fill(mask < 0, torch.finfo(torch.float64).min)
        hook = lambda _m, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask})  # noqa: E731
        handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        return base(use_cache=False, **inputs).logits
    finally:
        for handle in handles:
            handle.remove()


def rounding(family: str) -> float:
    """Norms are computed in float32; those over all heads sum them in another order."""
    return 1e-6 if family in NORMED_TOGETHER else 1e-9


@pytest.mark.parametrize(("heads", "sinks"), [((1, 3), 3), ((2,), 0)], ids=str)
@pytest.mark.parametrize("family", each_family(name for name in FAMILY_NAMES if not FAMILIES[name].own_sinks))
def test_named_heads_see_everything(family: str, heads: tuple[int, ...], sinks: int) -> None:
    base, layers = base_of(family), changed_layers(family)
    model, _ = by_action(base, SlidingWindow(window=5, sinks=sinks, full_heads=heads), layers)
    ids = text(2, LENGTH, seed=5)
    weights = torch.randn(
        2, LENGTH, base.config.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    found = []
    for run in (
        lambda embeds: model(inputs_embeds=embeds, use_cache=False).logits,
        lambda embeds: by_masks(base, {layer: set(heads) for layer in layers}, 5, sinks, inputs_embeds=embeds),
    ):
        embeds = base.get_input_embeddings().weight[ids].detach().requires_grad_()
        logits = run(embeds)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), embeds)
        found.append((logits, gradient))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= rounding(family) * theirs.abs().max()
    other = by_masks(base, {layer: {0} for layer in layers}, 5, sinks, input_ids=ids)
    assert (found[0][0] - other).abs().max() > 1e-3 * other.abs().max(), "which heads are full matters"


@pytest.mark.parametrize("family", ["llama", "phi3", "olmo3"])
def test_a_count_takes_the_heads_of_most_harm(family: str) -> None:
    base, layers = base_of(family), changed_layers(family)
    model, statistics = by_action(base, SlidingWindow(window=5, sinks=2, full_heads=2), layers)
    most = {}
    for layer, values in statistics.items():
        (value,) = values.values()
        most[layer] = set(value.topk(2).indices.tolist())
    ids = text(2, LENGTH, seed=5)
    with torch.no_grad():
        found, wanted = model(input_ids=ids, use_cache=False).logits, by_masks(base, most, 5, 2, input_ids=ids)
    assert (found - wanted).abs().max() <= rounding(family) * wanted.abs().max()


def test_fewer_kv_heads_come_first() -> None:
    base, ids = base_of("llama"), text(2, LENGTH, seed=5)
    fewer = KVHeads(n=2, align=False)
    model, statistics = by_action(base, together([fewer, SlidingWindow(window=5, full_heads=1)]), [1])
    (value,) = statistics[1].values()
    half = int(value.view(2, 2).mean(1).argmax())
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False).logits
        # By hand each of the four heads is the mean of its group.
        full = {2 * half, 2 * half + 1}
        wanted = by_masks(kv_heads_by_hand(base, fewer, text(), [1]), {1: full}, 5, 0, input_ids=ids)
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()


def test_learned_sinks_are_those_of_the_windowed_heads() -> None:
    base = base_of("llama")
    model, statistics = by_action(base, SlidingWindow(window=5, sinks="learned", full_heads=(1, 2)), [2])
    (value,) = statistics[2].values()
    sinks = model.model.layers[2].get_parameter(SINK_LOGITS.name)
    assert torch.equal(sinks.float(), value[[0, 1, 6, 7]])


def test_the_statistic_is_the_mean_squared_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harm, "SCORES", 5 * 2 * 4 * LENGTH)
    chance = torch.Generator().manual_seed(0)
    query, projection = torch.randn(2, 4, LENGTH, 8, generator=chance), torch.randn(10, 32, generator=chance)
    key, value = (torch.randn(2, 2, LENGTH, 8, generator=chance) for _ in range(2))

    def outputs(window: int, sinks: int) -> Tensor:
        place = torch.arange(LENGTH)
        seen = (place <= place[:, None]) & ((place > place[:, None] - window) | (place < sinks))
        k, v = (x.double().repeat_interleave(2, 1) for x in (key, value))
        return (query.double() @ k.mT * 0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v

    full, windowed = outputs(LENGTH, 0), outputs(6, 2)
    statistic, sums = harm.WindowHarm(window=6, sinks=2), {}
    statistic.add_attention(sums, Attended(query, key, value, full.transpose(1, 2).float(), 0.5), lambda _name: projection)
    found = statistic.value(Observed(sums, 2 * LENGTH, None, None, None))  # type: ignore[arg-type]
    for head in range(2):
        mixed = full.clone()
        mixed[:, 2 * head : 2 * head + 2] = windowed[:, 2 * head : 2 * head + 2]
        change = (mixed - full).transpose(1, 2).flatten(2) @ projection.double().T
        assert float(found[head]) == pytest.approx(float(change.square().sum() / (2 * LENGTH)), rel=1e-5)


@pytest.mark.parametrize(
    ("heads", "said"),
    [(4, "none windowed"), ((0, 4), "names KV head 4 of 4 KV heads"), ((0, 1, 2, 3), "none windowed")],
    ids=str,
)
def test_heads_that_are_not_there_are_refused(heads: int | tuple[int, ...], said: str) -> None:
    (found,) = SlidingWindow(window=5, full_heads=heads).check(facts_of(base_of("llama")), 1)
    assert found.code == "LB339"
    assert said in found.message


def test_a_layer_with_a_window_has_no_full_heads() -> None:
    facts = facts_of(family_base("mistral"))
    layer = NATIVE_LAYERS["mistral"][0]
    (found,) = SlidingWindow(window=5, full_heads=1).check(facts, layer)
    assert found.code == "LB339"
    assert "by themselves" in found.message


def test_named_heads_need_no_statistic() -> None:
    change = SlidingWindow(window=5, full_heads=(1,)).under(facts_of(base_of("llama")), 1)
    assert change is not None
    assert not stats_in(expr for _, expr in change.weights)


@pytest.mark.parametrize(
    ("rules", "at", "said"),
    [
        ("layers 1 kv_heads(1)\nlayers 1 swa(window=5, full_heads=1)\nelse keep", (2, 1), "rules 1-2, layer 1: "),
        ("layers 1 kv_heads(1) + swa(window=5, full_heads=1)\nelse keep", (1, 1), "rule 1, layer 1: "),
        (
            "choose for layers all among keep, kv_heads(1) + swa(5, full_heads=1) minimizing kl subject to kv(64) <= 50%",
            (1, 35),
            "`kv_heads(n=1) + swa(window=5, full_heads=1)`: ",
        ),
    ],
    ids=["two rules", "one rule", "an alternative"],
)
def test_what_leaves_no_head_windowed_is_refused_where_it_stands(rules: str, at: tuple[int, int], said: str) -> None:
    found = check_recipe(rules, facts=facts_of(family_base("llama"))).diagnostics
    (refused,) = (d for d in found if d.is_error)
    assert refused.code == "LB339"
    assert refused.message.startswith(said)
    assert "1 of 1 KV heads are full" in refused.message
    assert refused.span is not None
    assert refused.span.start_line_column == at


def again(window: Window):
    """A model whose layers have this window already, as an artifact that is changed once more."""
    facts = facts_of(family_base("llama", **MANY))
    specs = tuple(spec.replace(mixer=spec.mixer.replace(window=window)) for spec in facts.layer_specs)
    return replace(facts, layer_specs=specs)


@pytest.mark.parametrize(("sinks", "nodes"), [(4, {}), ("learned", {SINK_LOGITS.name: "slice"})], ids=str)
def test_other_sinks_beside_full_heads_leave_these_as_they_are(sinks: int | str, nodes: dict[str, str]) -> None:
    change = SlidingWindow(window=5, sinks=sinks).under(again(Window(size=5, full_heads=1)), 2)
    assert change is not None
    assert change.spec.mixer.full_heads == 1
    assert {name: expr.node for name, expr in change.weights} == nodes


def test_kv_heads_with_and_without_windows_are_not_merged() -> None:
    facts, fewer = again(Window(size=5, full_heads=1)), KVHeads(n=2)
    (found,) = fewer.check(facts, 1)
    assert found.code == "LB339"
    assert "see all tokens" in found.message
    change = fewer.under(facts, 1)
    assert change is not None
    assert change.spec == facts.layer_specs[1]


def test_what_was_windowed_before_is_not_marked() -> None:
    mixer = again(Window(size=5, full_heads=1)).layer_specs[0].mixer
    assert {mark.sign for mark in mixer.marks(mixer) if mark.row == "attn"} == {"="}


def test_impossible_counts_are_refused_wherever_they_are_met() -> None:
    facts = facts_of(family_base("llama"))
    action = SlidingWindow(window=5, full_heads=2)
    assert windows_of([action], facts) == frozenset()
    named = recipe_from_text("layers 1 kv_heads(2)\nlayers 1 swa(window=5, full_heads=[3])\nelse keep").unwrap()
    with pytest.raises(LbdslError) as refused:
        select(Case(named, facts_of(family_base("llama", **MANY))), {})
    assert [found.code for found in refused.value.diagnostics] == ["LB339"]


def test_an_alternative_that_other_rules_leave_no_room_for_is_left_out() -> None:
    recipe = recipe_from_text(
        "layers 1 kv_heads(1)\nchoose for layers all among keep, swa(window=5, full_heads=1)"
        " minimizing kl subject to kv(64) <= 80%"
    ).unwrap()
    case = Case(recipe, facts_of(family_base("llama", **MANY)))
    scores = {request: Measurement(0.1, 0.01, Unit.NATS, 100, 2) for request in case.requests}
    chosen = select(case, scores).unwrap()
    assert chosen.layers[1].after.mixer.window is None
    assert any(layer.after.mixer.full_heads == 1 for layer in chosen.layers if layer.index != 1)


def test_scores_that_are_capped_are_capped_in_the_statistic() -> None:
    chance = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, LENGTH, 8, generator=chance) for _ in range(3))
    scores = 2 * torch.tanh(query.double() @ key.double().mT / 2)
    full = scores.masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf).softmax(-1) @ value.double()
    sums: dict[str, Tensor] = {}
    seen = Attended(query, key, value, full.transpose(1, 2).float(), 1.0, softcap=2.0)
    harm.WindowHarm(window=LENGTH, sinks=0).add_attention(sums, seen, lambda _name: torch.ones(4, 16))
    assert float(sums["harm"].max()) < 1e-6
