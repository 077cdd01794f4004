"""The joint loss against full forward passes of the changed model."""

from __future__ import annotations

import pytest
import torch

from lbdsl.data.split import TextPart
from lbdsl.layer.weights import LayerChange
from lbdsl.measure import flow
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.runs import Measuring
from lbdsl.measure.scores import measure_plans
from lbdsl.measure.store import open_store
from lbdsl.model.surgery import to_hybrid
from tests.measure_cases import LAYERS, counting_layers, naive_scores, text, tiny_layer, tiny_llama

NONE = tiny_layer(attention=False)
BLOCKS = text(3, 29, TextPart.JOINT)
PLANS = {
    "mixed": {1: NONE, 2: tiny_layer(window=5, sinks=1), 3: NONE},
    "first": {0: tiny_layer(window=4)},
    "last": {LAYERS - 1: NONE},
}


@pytest.fixture(scope="module")
def hybrid():
    return to_hybrid(tiny_llama())


def joint(hybrid, folder, plan, digest="d", **options):
    with open_store(folder) as store:
        model = hybrid if callable(hybrid) and not isinstance(hybrid, torch.nn.Module) else lambda: LoadedModel(hybrid)
        changes = {digest: {layer: LayerChange(spec) for layer, spec in plan.items()}}
        (found,) = measure_plans(Measuring(model, BLOCKS, store, "print", **options), changes, ("kl", "nll"))
        return found


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_full_forward_passes(hybrid, tmp_path, name, batch):
    expected = naive_scores(tiny_llama(), BLOCKS.ids, PLANS[name])
    found = joint(hybrid, tmp_path, PLANS[name], batch=batch)
    assert set(found.scores) == {"nll", "kl"}
    for metric, value in {**found.scores, "base_nll": found.base_nll}.items():
        assert value.value == pytest.approx(expected[metric].mean().item(), abs=1e-5)
        assert (value.tokens, value.sequences, value.unit) == (3 * 28, 3, "nats/token")
    assert abs(found.scores["nll"].value) > 1e-3


def test_no_change_is_exactly_nothing(hybrid, tmp_path):
    found = joint(hybrid, tmp_path, {})
    assert {name: score.value for name, score in found.scores.items()} == {"nll": 0, "kl": 0}


def test_kept_under_the_selection(hybrid, tmp_path):
    first = joint(hybrid, tmp_path, PLANS["mixed"], "one")

    def no_model():
        raise AssertionError("the model is not needed")

    assert joint(no_model, tmp_path, PLANS["mixed"], "one") == first
    other = joint(hybrid, tmp_path, PLANS["last"], "two")
    assert other.scores["nll"] != first.scores["nll"]
    assert other.base_nll == first.base_nll


def test_unchanged_prefix_runs_once(hybrid, tmp_path):
    reports = []
    with counting_layers(hybrid) as ran:
        joint(hybrid, tmp_path, {3: NONE}, batch=3, progress=lambda d, t, note="": reports.append((d, t)))
    assert sorted(ran) == [0, 1, 2, 3, 3]
    assert reports[-1][0] == pytest.approx(reports[-1][1])


def test_plans_that_are_equal_up_to_a_layer_share_it(hybrid, tmp_path):
    """Layers 0 and 1 of `one` and `two` are alike, and those of `three` up to layer 2 are the base's."""
    window = tiny_layer(window=4)
    plans = {"one": {1: window, 3: NONE}, "two": {1: window, 2: NONE}, "three": {2: NONE, 3: window}}
    changes = {name: {layer: LayerChange(spec) for layer, spec in plan.items()} for name, plan in plans.items()}
    reports = []
    with open_store(tmp_path) as store, counting_layers(hybrid) as ran:
        report = lambda d, t, note="": reports.append((d, t))  # noqa: E731
        measuring = Measuring(lambda: LoadedModel(hybrid), BLOCKS, store, "print", report, batch=3)
        together = measure_plans(measuring, changes, ("kl",))
    assert [ran.count(layer) for layer in range(LAYERS)] == [1, 2, 4, 4]
    assert reports[-1][0] == pytest.approx(reports[-1][1])
    for (name, plan), found in zip(plans.items(), together, strict=True):
        assert found.scores["kl"] == joint(hybrid, tmp_path / name, plan, batch=3).scores["kl"]


def test_changed_layers_are_made_once_for_all_sequences(hybrid, tmp_path, monkeypatch):
    made, variant_of = [], flow.variant_of
    monkeypatch.setattr(
        flow, "variant_of", lambda model, layer, *rest: (made.append(layer), variant_of(model, layer, *rest))[1]
    )
    joint(hybrid, tmp_path, PLANS["mixed"])
    assert made == [1, 2, 3]


def test_the_base_stays_as_it_was(hybrid, tmp_path):
    joint(hybrid, tmp_path, PLANS["mixed"])
    with torch.no_grad():
        assert torch.equal(hybrid(BLOCKS.ids).logits, tiny_llama()(BLOCKS.ids).logits)
