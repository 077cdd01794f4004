"""What a stage trains and against what: the prefix that both models share, cached teachers, and layers that match."""

from __future__ import annotations

import copy

import pytest
import torch

from lbdsl.core.diagnostic import LbdslError
from lbdsl.heal.changed import changed_layers, segments
from lbdsl.heal.losses import layer_loss
from lbdsl.heal.objectives import Distill, Match
from lbdsl.heal.teacher import CACHED_ROWS, LoadedTeacher, cached_teacher
from lbdsl.heal.text import HealingText
from lbdsl.recipe.schema import FullWeights, Lora
from tests.heal.test_heal import HEAL, blocks, damaged, mean_kl, run, tiny
from tests.layer_changes import GONE, NONE, swa

ROWS = torch.arange(2)


def windowed(teacher, layer: int = 2):
    student = copy.deepcopy(teacher)
    student.lm_head.requires_grad_(False)
    student.set_layer(layer, swa(4).of(student.config.lbdsl["layers"][layer]))
    return student


def without_block(teacher, layer: int = 2):
    student = copy.deepcopy(teacher)
    student.set_layer(layer, GONE.of(student.config.lbdsl["layers"][layer]))
    return student


def cached(teacher, ids, folder, batch: int = 2, positions=None):
    return cached_teacher(teacher, ids, folder, batch, lambda done, total, note: None, positions)


@pytest.mark.parametrize("hidden_weight", [0.0, 0.1])
def test_the_layers_before_the_first_change_run_once_for_both_models(hidden_weight: float) -> None:
    teacher, ids = tiny(), blocks()[:2]
    student = windowed(teacher)
    assert changed_layers(student, teacher) == (2,)
    calls = []
    student.model.layers[1].register_forward_hook(lambda *_: calls.append(1))
    whole = Distill(student, LoadedTeacher(teacher), 0, 1.0, 0.0)(ids, ROWS)
    assert calls == [1]
    shared = Distill(student, LoadedTeacher(teacher), 2, 1.0, 0.0)(ids, ROWS)
    assert calls == [1]
    assert torch.equal(shared, whole)
    assert shared.item() == pytest.approx(mean_kl(teacher, student, ids), rel=1e-5)
    assert Distill(student, LoadedTeacher(teacher), 2, 1.0, 0.1)(ids, ROWS) > shared


@pytest.mark.parametrize("first", [0, 2])
def test_a_cached_teacher_gives_the_same_loss_and_gradients(tmp_path, first: int) -> None:
    teacher, ids = tiny(), blocks()[:4]
    student = windowed(teacher)
    found = []
    for source in (LoadedTeacher(teacher), cached(teacher, ids, tmp_path)):
        student.zero_grad()
        loss = Distill(student, source, first, 1.0, 0.0)(ids[2:], ROWS + 2)
        loss.backward()
        found.append((loss.item(), student.model.layers[2].self_attn.q_proj.weight.grad.clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    with pytest.raises(ValueError, match="last hidden states"):
        Distill(student, source, first, 1.0, 0.1)(ids[:2], ROWS)


def test_a_cache_is_written_on_from_where_it_stopped(tmp_path) -> None:
    teacher, ids = tiny(), blocks()[:6]
    whole = cached(teacher, ids, tmp_path)
    states = whole.states(ids, torch.arange(6), 0, layers=False).final_BND.clone()
    (tmp_path / CACHED_ROWS.format("float32")).write_text("4")
    seen = []
    teacher.model.layers[0].register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    again = cached(teacher, ids, tmp_path)
    assert seen == [2]
    assert torch.equal(again.states(ids, torch.arange(6), 0, layers=False).final_BND, states)
    cached(teacher, ids, tmp_path)
    assert seen == [2]


def test_healing_by_a_cached_teacher_is_the_same(tmp_path) -> None:
    teacher, other = tiny(), blocks(HEAL)[:1].flip(1)
    loaded, report = run(teacher, windowed(teacher), tmp_path / "loaded", apart=HealingText(other))
    ids = torch.cat([blocks(HEAL), other])
    (tmp_path / "cached").mkdir()
    source = cached(teacher, ids, tmp_path / "cached")
    by_cache, again = run(teacher, windowed(teacher), tmp_path / "cached", source=source, apart=HealingText(other))
    assert (again.curve, again.validation) == (report.curve, report.validation)
    for (name, one), (_, two) in zip(loaded.named_parameters(), by_cache.named_parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights()])
def test_computing_layers_twice_gives_the_same_weights(tmp_path, method) -> None:
    teacher, heal = tiny(), HEAL.model_copy(update={"method": method})
    plain, _ = run(teacher, windowed(teacher), tmp_path / "plain", heal)
    twice, _ = run(teacher, windowed(teacher), tmp_path / "twice", heal, recompute=True)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in twice.modules())
    for (name, one), (_, two) in zip(plain.named_parameters(), twice.named_parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6), name


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights()])
def test_layers_before_the_first_change_are_not_trained(tmp_path, method) -> None:
    teacher, heal = tiny(), HEAL.model_copy(update={"method": method})
    healed, _ = run(teacher, windowed(teacher, 1), tmp_path, heal)
    moved = [
        index
        for index, layer in enumerate(healed.model.layers)
        if any(
            not torch.equal(weight, dict(teacher.model.layers[index].named_parameters())[name])
            for name, weight in layer.named_parameters()
        )
    ]
    assert moved == [1, 2]


# Matching ------------------------------------------------------------------------------------------------------------


def test_layer_loss_is_relative_to_what_the_layer_did() -> None:
    before, after = torch.zeros(1, 2, 3), torch.full((1, 2, 3), 2.0)
    assert layer_loss(before, before, after).item() == pytest.approx(1.0)
    assert layer_loss(torch.ones(1, 2, 3), before, after).item() == pytest.approx(0.25)


def test_match_compares_each_changed_layer_on_the_base_states() -> None:
    teacher, ids = tiny(), blocks()[:2]
    student = windowed(windowed(teacher), 1)
    loss = Match(student, LoadedTeacher(teacher), segments(student, teacher))(ids, ROWS)
    states = teacher.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    inputs = student.model.prepare(states[0])
    terms = []
    for layer in (1, 2):
        ours = student.model.run_layer(student.model.layers[layer], layer, states[layer], inputs)
        after = teacher.model.run_layer(teacher.model.layers[layer], layer, states[layer], teacher.model.prepare(states[0]))
        terms.append(((ours - after).pow(2).sum() / (after - states[layer]).pow(2).sum()).item())
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-5)


def test_what_learns_together() -> None:
    teacher = tiny()
    assert segments(teacher, teacher) == ()
    assert segments(windowed(windowed(teacher), 1), teacher) == (range(1, 2), range(2, 3))
    # A layer whose weights make up for the next one, and one without weights.
    patched = windowed(damaged(teacher))
    assert segments(patched, teacher) == (range(1, 3),)
    assert segments(without_block(teacher), teacher) == (range(1, 3),)
    assert segments(without_block(windowed(teacher, 1)), teacher) == (range(1, 3),)


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights()])
def test_matching_trains_the_changed_layers_alone_and_helps(tmp_path, method) -> None:
    teacher = tiny()
    stage = HEAL.model_copy(update={"name": "match", "method": method, "tokens": 40 * 2 * 16})
    student = damaged(teacher)
    healed, report = run(teacher, copy.deepcopy(student), tmp_path, stage)
    assert report.stage == "match"
    assert report.curve[-1][1] < 0.7 * report.curve[0][1]
    assert mean_kl(teacher, healed, blocks(stage)) < mean_kl(teacher, student, blocks(stage))
    for index in (0, 2):
        before = dict(teacher.model.layers[index].named_parameters())
        assert all(torch.equal(weight, before[name]) for name, weight in healed.model.layers[index].named_parameters())


def test_match_with_nothing_to_train_is_a_coded_error(tmp_path) -> None:
    teacher = tiny()
    student = without_block(teacher, 0)
    with pytest.raises(LbdslError) as caught:
        run(teacher, student, tmp_path, HEAL.model_copy(update={"name": "match"}))
    assert [d.code for d in caught.value.diagnostics] == ["LB484"]


def test_a_layer_without_attention_is_matched_by_its_mlp(tmp_path) -> None:
    teacher = tiny()
    student = copy.deepcopy(teacher)
    student.set_layer(1, NONE.of(student.config.lbdsl["layers"][1]))
    stage = HEAL.model_copy(update={"name": "match", "tokens": 40 * 2 * 16})
    _, report = run(teacher, student, tmp_path, stage)
    assert report.curve[-1][1] < report.curve[0][1]
