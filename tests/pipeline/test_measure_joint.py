"""The joint loss against full forward passes of the changed model."""

from __future__ import annotations

import pytest
import torch
from measure_cases import LAYERS, naive_scores, text, tiny_layer, tiny_llama

from lbdsl.data.split import Part
from lbdsl.measure.joint import measure_joint
from lbdsl.measure.store import open_store
from lbdsl.model.surgery import to_hybrid

NONE = tiny_layer(attention=False)
BLOCKS = text(3, 29, Part.JOINT)
PLANS = {
    "mixed": {1: NONE, 2: tiny_layer(window=5, sinks=1), 3: NONE},
    "first": {0: tiny_layer(window=4)},
    "last": {LAYERS - 1: NONE},
}


@pytest.fixture(scope="module")
def hybrid():
    return to_hybrid(tiny_llama())


def joint(hybrid, folder, changes, digest="d", **options):
    with open_store(folder) as store:
        return measure_joint(
            hybrid if callable(hybrid) and not isinstance(hybrid, torch.nn.Module) else lambda: hybrid,
            changes,
            BLOCKS,
            store,
            "print",
            digest,
            **options,
        )


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


def test_unchanged_prefix_runs_once(hybrid, tmp_path, monkeypatch):
    run, layers = hybrid.model.run_layers, []

    def counted(hidden, inputs, start=0, stop=None, **rest):
        layers.append((LAYERS if stop is None else stop) - start)
        return run(hidden, inputs, start=start, stop=stop, **rest)

    monkeypatch.setattr(hybrid.model, "run_layers", counted)
    reports = []
    joint(hybrid, tmp_path, {3: NONE}, batch=3, progress=lambda d, t, note="": reports.append((d, t)))
    assert sum(layers) == 3 + 1 + 1
    assert reports[-1][0] == pytest.approx(reports[-1][1])


def test_the_base_stays_as_it_was(hybrid, tmp_path):
    joint(hybrid, tmp_path, PLANS["mixed"])
    with torch.no_grad():
        assert torch.equal(hybrid(BLOCKS.ids).logits, tiny_llama()(BLOCKS.ids).logits)
