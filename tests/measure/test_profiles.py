"""Profiles: the fit finds what cells were made of, predictions stay within what was measured, files are read back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lbdsl.layer.cost import ModelCost, model_cost
from lbdsl.layer.profile import Profile, prefill_features, run_features, step_features
from lbdsl.measure.profiles import fit, profile_path, read_profile, write_profile
from tests.plan_cases import smollm2_facts
from tests.specs import layer_of

FACTS = smollm2_facts()
BASE = FACTS.layer_specs[0].to_json()


def costs() -> dict[str, ModelCost]:
    layers = {
        "base": BASE,
        "drop": layer_of(BASE, attention=False),
        "window": layer_of(BASE, 256),
        "no mlp": {**BASE, "ffn": None},
        "narrow": {**BASE, "ffn": {**BASE["ffn"], "width": BASE["ffn"]["width"] // 2}},
    }
    from lbdsl.layer.spec import LayerSpec

    return {
        name: model_cost(FACTS, [LayerSpec.model_validate(layer if i % 2 else BASE) for i in range(FACTS.layers)])
        for name, layer in layers.items()
    }


TRUE = (1e-3, 2e-4, 1e-4, 3e-4, 5e-12, 4e-11)


def test_the_fit_finds_the_constants_and_none_is_negative() -> None:
    rows = [step_features(cost, ctx, 4) for cost in costs().values() for ctx in (512, 4096)]
    seconds = [sum(c * f for c, f in zip(TRUE, row, strict=True)) for row in rows]
    found, worst = fit(rows, seconds)
    assert worst < 1e-6
    assert min(found) >= 0
    drawn = random.Random(0)
    noisy = [value * drawn.uniform(0.97, 1.03) for value in seconds]
    found, worst = fit(rows, noisy)
    assert 0 < worst < 0.05
    assert min(found) >= 0
    # A feature that would have to be negative is left out.
    assert fit([(1.0, 0.0), (1.0, 1.0), (1.0, 2.0)], [1.0, 0.9, 0.8])[0][1] == 0


def profile() -> Profile:
    steps = {1: TRUE, 8: tuple(3 * c for c in TRUE)}
    return Profile(
        "transformers", "5", {"name": "cpu"}, 4096, {"steps": steps, "prefill": {0: (0.1, 0, 0, 1e-12, 2e-12, 1e-12)}}
    )


def test_predictions_are_interpolated_between_batches_and_not_beyond_what_was_measured() -> None:
    found, cost = profile(), costs()["base"]
    low, high = found.latency(cost, 1024, 1), found.latency(cost, 1024, 8)
    assert low is not None
    assert high is not None
    middle = found.latency(cost, 1024, 4)
    assert middle is not None
    assert low < middle < high
    for ctx, batch in ((8192, 1), (1024, 9), (1024, 0)):
        assert found.latency(cost, ctx, batch) is None
    assert found.peak(cost, 1024, 1) is None
    assert found.throughput(cost, 1024, 256, 50) is None
    assert found.reading(costs()["drop"], 1024) < found.reading(cost, 1024)


@pytest.mark.parametrize("features", [step_features, run_features])
def test_features_see_every_part(features) -> None:
    base = features(costs()["base"], 1024, 256)
    for name in ("drop", "window", "no mlp", "narrow"):
        assert features(costs()[name], 1024, 256) != base
    windowed = prefill_features(costs()["window"], 1024)
    assert windowed[-1] > 0
    assert prefill_features(costs()["window"], 128)[-1] == 0


def test_a_profile_is_read_back_and_belongs_to_shape_and_engine(tmp_path: Path) -> None:
    path = profile_path("transformers", FACTS, "cpu", tmp_path)
    assert read_profile(path) is None
    write_profile(path, profile())
    assert read_profile(path) == profile()
    assert profile_path("vllm", FACTS, "cpu", tmp_path) != path
    path.write_text("[]")
    assert read_profile(path) is None
