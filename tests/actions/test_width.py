"""`width` against surgery in plain torch: the same channels, and the same least squares, written without expressions."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest

from lbdsl import check_recipe
from lbdsl.actions import actions
from lbdsl.actions.base import Action
from lbdsl.core.units import Share
from lbdsl.cost.cost import model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.editor.pages import choices, parameter_page
from lbdsl.layer.difference import changes_text
from lbdsl.layer.weights import LayerChange
from tests.plan_cases import joint_loss, llama_facts, plan_of, smollm2_facts

WIDTH = 96
"""Channels of the tiny models."""

GATED = "\nheal { tokens = 1k }\nassert ppl_increase < 5%"


def width(text: str) -> Action:
    return check_recipe(f"else {text}").unwrap().rules[0].actions[0]


# What is asked for -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "base", "wanted"),
    [
        ("width(1152)", 1536, 1152),
        ("width(75%)", 1536, 1152),
        ("width(100%/3)", 1536, 512),
        ("width(90%)", 1536, 1376),  # 1382.4
        ("width(75%)", 64, 32),  # 48: halves down
        ("width(75%)", 96, 64),  # 72
        ("width(0.1%)", 1536, 32),
        ("width(70%)", 320, 224),  # 0.7 * 320 is a little below 224
        # What `check` refuses changes nothing.
        ("width(1000)", 1536, 1536),
        ("width(1536)", 1536, 1536),
        ("width(99%)", 1536, 1536),
        ("width(75%)", 32, 32),
    ],
)
def test_the_width_that_is_asked_for(text: str, base: int, wanted: int) -> None:
    facts = llama_facts(intermediate=base)
    change = width(text).under(facts, 0)
    assert change is not None
    assert change.spec.ffn.width == wanted
    assert bool(change.weights) == (wanted < base)
    assert [d.is_error for d in width(text).check(facts, 0)] == ([] if wanted < base else [True])


@pytest.mark.parametrize(
    ("text", "help"),
    [
        ("width(1000)", "nearest allowed: 992 or 1024"),
        ("width(1536)", "nearest allowed: 1504"),
        ("width(99%)", "nearest allowed: 1504"),
        ("width(5000)", "nearest allowed: 1504"),
        ("width(75)", "nearest allowed: 64 or 96; a share is `width(75%)`"),
    ],
)
def test_a_width_that_cannot_be_is_refused_with_the_nearest(text: str, help: str) -> None:
    found = [d for d in check_recipe(f"else {text}", facts=smollm2_facts()).diagnostics if d.is_error]
    assert [(d.code, d.help) for d in found] == [("LB319", (help,))]
    assert found[0].span is not None
    assert "1536" in found[0].message
    ranked = check_recipe(f"lowest 3 by kl({text}) drop\nelse keep", facts=smollm2_facts())
    assert [d.code for d in ranked.diagnostics if d.is_error] == ["LB319"]


def test_an_mlp_that_is_as_narrow_as_can_be() -> None:
    (found,) = width("width(75%)").check(llama_facts(intermediate=32), 0)
    assert found.help == ("`drop(mlp)` removes it whole",)


@pytest.mark.parametrize("text", ["width(0.75)", 'width("75%")', "width(true)", "width(many)", "width(101%)", "width(-1%)"])
def test_what_is_neither_a_count_nor_a_share(text: str) -> None:
    (found,) = (d for d in check_recipe(f"else {text}").diagnostics if d.is_error)
    assert found.code in ("LB105", "LB106")
    assert "share" in found.message


@pytest.mark.parametrize("text", ["width(0)", "width(-32)", "width(0%)", "width(100%)"])
def test_what_needs_no_model_to_be_refused(text: str) -> None:
    (found,) = (d for d in check_recipe(f"else {text}").diagnostics if d.is_error)
    assert found.code == "LB105"
    assert "at least 1" in found.message or "more than 0% and less than 100%" in found.message


@pytest.mark.parametrize(
    "text", ["width(channels=1152)", "width(channels=87.5%, refit=false)", "width(channels=33.333333333%)"]
)
def test_it_is_the_same_as_text_and_as_json(text: str) -> None:
    action = width(text)
    assert action.text() == text
    assert type(action).model_validate(json.loads(action.model_dump_json())) == action


def test_a_share_is_what_its_text_says() -> None:
    for value in (1 / 3, 0.875, 2 / 7, 0.1, 1e-7, 1.0, 0.0):
        share = Share(value)
        assert Share(float(str(share).removesuffix("%")) / 100) == share
        assert share == pytest.approx(value, abs=1e-11)


def test_editors_know_its_parameters() -> None:
    assert choices(actions()["width"], "refit") == ("true", "false")
    assert parameter_page("width", "channels") == (
        "`channels` of `width(channels, refit=true)`: a number of channels, or a share of the base's as in `75%`, needed."
    )


def test_a_plan_shows_it_and_its_cost_is_exact() -> None:
    facts = smollm2_facts()
    plan = plan_of("layers 4-7 width(75%)\nlayers 8 width(1152) + drop" + GATED, facts, joint=joint_loss(0.1))
    layer = plan.layers[4]
    assert changes_text(layer.before, layer.after, "->") == ["width 1536 -> 1152"]
    assert (layer.marks["mlp"].sign, plan.layers[9].marks["mlp"].sign) == ("<", "=")
    assert plan.changes["narrower"] == 5
    attention = facts.layer_specs[0].mixer.tensors(facts)
    gone = 5 * 3 * 576 * (1536 - 1152) + sum(tensor.elements for tensor in attention) + 576
    assert plan.after.params == plan.before.params - gone
    assert plan.after.weights == plan.before.weights - 2 * gone
    specs = [planned.after for planned in plan.layers]
    before, after = facts.cost, model_cost(facts, specs)
    assert before.flops(1024) - after.flops(1024) >= 2 * 5 * 3 * 576 * 384


# What is made -----------------------------------------------------------------------------------------------------------


# The multipliers of Granite, the caps of Gemma 2, biases of MLPs where there can be any.
OPTIONS = {
    "llama": {"mlp_bias": True},
    "granite": {"mlp_bias": True, "residual_multiplier": 0.6, "embedding_multiplier": 3.0},
    "gemma2": {"head_dim": 16},
}


def tiny(family: str):
    """A stock model of the family with 96 channels, random biases and norms; and its facts."""
    from tests.export_cases import base_facts, base_model

    options = OPTIONS.get(family, {})
    return base_model(family, **options), base_facts(family, **options)[1]


def text_ids(seed: int = 0, rows: int = 8, seq: int = 64):
    import torch

    return torch.randint(0, 257, (rows, seq), generator=torch.Generator().manual_seed(seed))


def statistics_of(change: LayerChange, layer: int, facts: ModelFacts, model, inputs_MW) -> dict:
    """The statistics that a change needs, in float32, of inputs that come in two parts."""
    from lbdsl.layer.weights import stats_in
    from lbdsl.statistics import Observed, statistic_of

    spec, found = facts.layer_specs[layer], {}
    for named in stats_in(dict(change.weights).values()):
        statistic, sums = statistic_of(named), {}
        (module,) = statistic.watched(spec, facts)
        down = model.model.layers[layer].get_submodule(module)
        for part in inputs_MW.tensor_split([100]):
            statistic.add(sums, module, part[None], down(part)[None])
        seen = Observed(sums, len(inputs_MW), model.model.layers[layer].get_parameter, spec, facts)
        value = statistic.value(seen).float()
        assert tuple(value.shape) == named.dims
        found[named.text] = value
    return found


def made(change: LayerChange, layer: int, facts: ModelFacts, model, inputs_MW) -> dict:
    """The new weights of a layer by the expressions."""
    import torch

    from lbdsl.measure.expressions import tensor_of

    stats = statistics_of(change, layer, facts, model, inputs_MW)
    old = model.model.layers[layer].get_parameter
    return {name: tensor_of(expr, old, stats, torch.float32) for name, expr in change.weights}


def changed(model, facts: ModelFacts, text: str, inputs: list):
    """The hybrid model whose layers have the action."""
    from lbdsl.model.surgery import to_hybrid

    hybrid = to_hybrid(copy.deepcopy(model))
    for layer, inputs_MW in enumerate(inputs):
        change = width(text).under(facts, layer)
        assert change is not None
        hybrid.set_layer(layer, change.spec.to_json(), made(change, layer, facts, model, inputs_MW))
    return hybrid


def logits(model, ids):
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.torch
@pytest.mark.parametrize("refit", [False, True], ids=["taken", "refitted"])
@pytest.mark.parametrize("family", ["llama", "phi3", "granite", "gemma2"])
def test_logits_are_those_of_surgery_in_plain_torch(family: str, refit: bool) -> None:
    import torch

    from tests.by_hand import inputs_of_down, width_by_hand

    model, facts = tiny(family)
    ids = text_ids()
    inputs = inputs_of_down(model, ids)
    hybrid = changed(model, facts, f"width(64, refit={str(refit).lower()})", inputs)
    by_hand = width_by_hand(model, 64, inputs, refit)
    wanted = logits(by_hand, ids)
    assert torch.allclose(logits(hybrid, ids), wanted, atol=1e-5 * wanted.abs().max().item())
    assert not torch.allclose(wanted, logits(model, ids), atol=1e-2)
    assert [layer.mlp.down_proj.in_features for layer in hybrid.model.layers] == [64] * 4


@pytest.mark.torch
@pytest.mark.slow
def test_every_family_gets_the_tensors_that_its_layers_have() -> None:
    from tests.export_cases import base_facts
    from tests.family_cases import FAMILY_NAMES

    for family in FAMILY_NAMES:
        _, facts = base_facts(family, **OPTIONS.get(family, {}))
        for text in ("width(64, refit=false)", "width(75%)"):
            change = width(text).under(facts, 0)
            assert change is not None
            shapes = {tensor.name: tensor.shape for tensor in change.spec.tensors(facts)}
            old = {tensor.name: tensor.shape for tensor in facts.layer_specs[0].tensors(facts)}
            other = {name for name in shapes if shapes[name] != old[name]}
            assert other == {name for name, _ in change.weights}, family
            assert {name: expr.shape(old) for name, expr in change.weights} == {name: shapes[name] for name in other}


@pytest.mark.torch
def test_refitted_is_closer_than_taken_on_the_text_of_the_fit() -> None:
    from tests.by_hand import inputs_of_down

    model, facts = tiny("llama")
    ids = text_ids(rows=16)
    inputs = inputs_of_down(model, ids)
    for layer, inputs_MW in enumerate(inputs):
        down = model.model.layers[layer].mlp.down_proj.weight
        wanted = inputs_MW @ down.T
        norms = inputs_MW.abs().mean(0) * down.norm(dim=0)
        keep = norms.argsort(descending=True)[:64].sort().values
        errors = []
        for text in ("width(64, refit=false)", "width(64)"):
            new = made(width(text).under(facts, layer), layer, facts, model, inputs_MW)["mlp.down_proj.weight"]
            errors.append((inputs_MW[:, keep] @ new.T - wanted).pow(2).mean().item())
        assert errors[1] < 0.98 * errors[0]


@pytest.mark.torch
def test_channels_that_depend_on_others_are_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every removed channel is a sum of kept ones: nothing is lost but what the ridge takes."""
    import torch

    monkeypatch.setattr("lbdsl.statistics.channel_refit.RIDGE", 1e-4)

    model, facts = tiny("llama")
    generator = torch.Generator().manual_seed(0)
    free_MK = torch.randn(4000, 64, generator=generator)
    mix = torch.randn(64, 32, generator=generator) * 0.05
    places = torch.randperm(WIDTH, generator=generator)
    inputs_MW = torch.empty(4000, WIDTH)
    inputs_MW[:, places[:64]], inputs_MW[:, places[64:]] = free_MK, free_MK @ mix
    down = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        down.div_(down.norm(dim=0))
    new = made(width("width(64)").under(facts, 0), 0, facts, model, inputs_MW)["mlp.down_proj.weight"]
    taken = made(width("width(64, refit=false)").under(facts, 0), 0, facts, model, inputs_MW)["mlp.down_proj.weight"]
    keep = places[:64].sort().values
    wanted = inputs_MW @ down.T
    error = (inputs_MW[:, keep] @ new.T - wanted).norm() / wanted.norm()
    assert error < 2e-3
    assert error < 0.01 * (inputs_MW[:, keep] @ taken.T - wanted).norm() / wanted.norm()


@pytest.mark.torch
def test_ties_go_to_the_lower_channel_in_both() -> None:
    import torch

    model, facts = tiny("llama")
    inputs_MW = torch.randn(300, 48, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    down = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        down[:, 48:] = down[:, :48]  # channel c + 48 is channel c once more
    model.model.layers[0].mlp.down_proj.bias = None
    taken = made(width("width(64, refit=false)").under(facts, 0), 0, facts, model, inputs_MW)
    fitted = made(width("width(64)").under(facts, 0), 0, facts, model, inputs_MW)
    gate = model.model.layers[0].mlp.gate_proj.weight
    importance = inputs_MW.abs().mean(0) * down.norm(dim=0)
    # 32 pairs, each with its lower channel first.
    keep = torch.argsort(importance, descending=True, stable=True)[:64].sort().values
    for new in (taken, fitted):
        assert torch.equal(new["mlp.gate_proj.weight"], gate[keep])


@pytest.mark.torch
def test_an_mlp_that_gives_nothing_is_refitted_to_nothing() -> None:
    import torch

    model, facts = tiny("llama")
    change = width("width(32)").under(facts, 0)
    new = made(change, 0, facts, model, torch.zeros(50, WIDTH))
    assert torch.equal(new["mlp.down_proj.weight"], model.model.layers[0].mlp.down_proj.weight[:, :32])


@pytest.mark.torch
def test_largest_and_the_others_are_all_places() -> None:
    import torch

    from lbdsl.layer.weights import Largest, Ref

    values = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])
    choice = Largest(of=Ref(name="v"), count=2, size=2)
    assert choice.indices(values).tolist() == [2, 3, 4, 5]
    assert choice.replace(others=True).indices(values).tolist() == [0, 1, 6, 7, 8, 9]
    assert choice.replace(others=True).taken(10, {"v": (5,)}) == 6


@pytest.mark.torch
def test_sums_and_single_indices() -> None:
    import torch

    from lbdsl.layer.weights import Ref, Sum, Take
    from lbdsl.measure.expressions import tensor_of

    x = torch.arange(6.0).view(2, 3)
    old = SimpleNamespace(x=x, y=x * 10)
    row = Take(x=Sum(xs=(Ref(name="x"), Ref(name="y"))), axis=0, indices=1)
    assert tensor_of(row, lambda name: getattr(old, name), {}, torch.float32).tolist() == [33, 44, 55]
    assert row.shape({"x": (2, 3), "y": (2, 3)}) == (3,)
    with pytest.raises(ValueError, match="cannot be added"):
        row.shape({"x": (2, 3), "y": (3, 2)})
    with pytest.raises(ValueError, match="index"):
        Take(x=Ref(name="x"), axis=0, indices=2).shape({"x": (2, 3)})
