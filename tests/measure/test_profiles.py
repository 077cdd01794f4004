"""Profiles: the fit finds what cells were made of, predictions stay within what was measured, files are read back."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lbdsl.api.calibrating import _fitted, _Timed
from lbdsl.bench.cells import Cell
from lbdsl.bench.engine_transformers import InTransformers
from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.cost import ModelCost, model_cost
from lbdsl.cost.profile import Profile, memory_features, prefill_features, run_features, step_features, weighed
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure.profiles import fit, profile_path, read_profile, write_profile
from tests.plan_cases import smollm2_facts
from tests.specs import layer_of

FACTS = smollm2_facts()
BASE = FACTS.layer_specs[0].to_json()
W8A8 = {"kind": "int", "bits": 8, "group": "row", "activations": 8}


def costs() -> dict[str, ModelCost]:
    layers = {
        "base": BASE,
        "drop": layer_of(BASE, attention=False),
        "window": layer_of(BASE, 256),
        "no mlp": {**BASE, "ffn": None},
        "int8": {**BASE, "weights": dict.fromkeys(FACTS.linear_maps[0], W8A8)},
        "narrow": {**BASE, "ffn": {**BASE["ffn"], "width": BASE["ffn"]["width"] // 2}},
    }
    made = {
        name: [LayerSpec.model_validate(layer if i % 2 else BASE) for i in range(FACTS.layers)]
        for name, layer in layers.items()
    }
    made["half of both"] = [*made["window"][:15], *made["narrow"][15:]]
    return {name: model_cost(FACTS, specs) for name, specs in made.items()} | {"base": FACTS.cost}


TRUE = (1e-3, 2e-4, 1e-4, 3e-4, 5e-12, 3e-12, 4e-11, 2e-11)


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
    with pytest.raises(LbdslError, match="LB355"):
        fit(rows[::2], seconds[::2])
    # A feature that would have to be negative is left out.
    assert fit([(1.0, 0.0), (1.0, 1.0), (1.0, 2.0)], [1.0, 0.9, 0.8])[0][1] == 0


def profile() -> Profile:
    steps = {1: TRUE, 8: tuple(3 * c for c in TRUE)}
    constants = {"steps": steps, "prefill": {0: (0.1, 0, 0, 1e-12, 1e-12, 2e-12, 1e-12)}}
    return Profile("transformers", "5", {"dtype": "float32"}, {"steps": (512, 4096), "prefill": (512, 4096)}, constants)


def test_predictions_are_interpolated_between_batches_and_not_beyond_what_was_measured() -> None:
    found, cost = profile(), costs()["base"]
    low, high = found.latency(cost, 1024, 1), found.latency(cost, 1024, 8)
    assert low is not None
    assert high is not None
    middle = found.latency(cost, 1024, 4)
    assert middle is not None
    assert low < middle < high
    for ctx, batch in ((8192, 1), (256, 1), (1024, 9), (1024, 0)):
        assert found.latency(cost, ctx, batch) is None
    assert found.peak(cost, 1024, 1) is None
    assert found.throughput(cost, 1024, 256, 50) is None
    assert found.reading(costs()["drop"], 1024) < found.reading(cost, 1024)
    # Only the forms of quantized weights that were timed.
    assert found.latency(costs()["int8"], 1024, 1) is None
    timed = replace(found, packed=("W8A8",)).latency(costs()["int8"], 1024, 1)
    assert timed is not None
    assert timed < low


def test_a_plan_that_changes_nothing_is_not_the_base_itself() -> None:
    unchanged = model_cost(FACTS, FACTS.layer_specs)
    assert unchanged == FACTS.cost
    low, high = (profile().latency(cost, 1024, 1) for cost in (unchanged, FACTS.cost))
    assert low is not None
    assert high is not None
    assert low < high


@pytest.mark.parametrize("features", [step_features, run_features])
def test_features_see_every_part(features) -> None:
    base = features(costs()["base"], 1024, 256)
    for name in ("drop", "window", "no mlp", "narrow", "int8"):
        assert features(costs()[name], 1024, 256) != base
    windowed = prefill_features(costs()["window"], 1024)
    assert windowed[-1] > 0
    assert prefill_features(costs()["window"], 128)[-1] == 0


def test_llamacpp_reads_blocks_and_rings() -> None:
    """Against the keys that each token meets, counted one by one."""
    cost = costs()["window"]
    for ctx in (100, 512, 1000, 2048):
        ends = [min((token // 512 + 1) * 512, ctx) for token in range(ctx)]
        expected = [0, 0]
        for layer in cost.layers:
            mixer = layer.spec.mixer
            bounded = mixer.window is not None and mixer.window.size < ctx
            # Rings of 256 + 512 tokens.
            keys = sum(min(end, 768) if bounded else end for end in ends)
            expected[bounded] += 4 * mixer.heads * mixer.head_dim * keys
        assert prefill_features(cost, ctx, "llamacpp")[-2:] == tuple(expected)
    assert prefill_features(cost, 512) == prefill_features(cost, 512, "vllm") != prefill_features(cost, 512, "llamacpp")


def test_a_profile_is_read_back_and_belongs_to_shape_and_engine(tmp_path: Path) -> None:
    path = profile_path("transformers", FACTS, "cpu", tmp_path)
    assert read_profile(path) is None
    write_profile(path, profile())
    assert read_profile(path) == profile()
    assert profile_path("vllm", FACTS, "cpu", tmp_path) != path
    path.write_text("[]")
    assert read_profile(path) is None


def test_the_profile_of_measured_cells_has_the_constants_that_they_were_made_of(tmp_path: Path) -> None:
    """Rates, times and memory of variants beside a base that slows down from one to the next."""
    made_of = {"steps": TRUE, "prefill": (0.05, 1e-3, 1e-3, 1e-12, 5e-13, 2e-12, 1e-12), "memory": (2e8, 1.1, 1.3, 5e4)}
    every, found = costs(), []
    for drift, name in enumerate(("drop", "window", "no mlp", "narrow", "int8")):
        cells = []
        for ctx in (1024, 4096):
            for metric, batch in (("memory", 1), ("prefill", 1), ("decode", 1), ("decode", 8)):
                both = [amount(made_of, metric, every[each], ctx, batch) for each in ("base", name)]
                slow = 1.0 if metric == "memory" else 1.1**drift
                was, becomes = both if metric == "memory" else (1 / (slow * each) for each in both)
                ratio = becomes / was
                size = {"prefill": ctx, "decode": batch, "memory": 1}[metric]
                cells.append(Cell(ctx, batch, metric, "", size * was, size * becomes, ratio, ratio, ratio))
        timed = _Timed(name, "e", "1", tuple(layer.spec for layer in every[name].layers), cells, {})
        timed.keep(tmp_path / name)
        assert _Timed.read(tmp_path / name) == timed
        found.append(timed)
    assert _Timed.read(tmp_path / "none") is None
    profile, rows = _fitted(FACTS, found, Profile("e", "1", {"dtype": FACTS.dtype}), 48)
    assert max(profile.errors.values()) < 1e-6
    assert all(row.fitted == pytest.approx(row.measured) for row in rows)
    assert profile.ranges == {"memory": (1024, 4096 + 48), "prefill": (1024, 4096), "steps": (1024, 4096 + 48)}
    # The base's rate is the median over all variants: that of the third.
    slower = 1.1**2
    assert profile.packed == ("W8A8",)
    half = every["half of both"]
    assert profile.latency(half, 2048, 8) == pytest.approx(slower * amount(made_of, "decode", half, 2048, 8))
    assert profile.reading(half, 2048) == pytest.approx(slower * amount(made_of, "prefill", half, 2048, 1))
    assert profile.peak(half, 2048, 8) == pytest.approx(amount(made_of, "memory", half, 2048, 8))


def test_a_profile_reaches_to_the_end_of_the_positions() -> None:
    """The line that an error prints, `--contexts 8192`, measures what is asked for at all 8,192 positions."""
    bench = SimpleNamespace(facts=FACTS)
    asked, _ = InTransformers(contexts=(FACTS.positions,)).for_profile(bench)
    assert asked.lengths(bench)[-1] + asked.written == FACTS.positions == 8192
    longer, _ = InTransformers(contexts=(1024, 65536)).for_profile(bench)
    with pytest.raises(LbdslError, match="LB324"):
        longer.lengths(bench)


def amount(made_of, metric: str, cost: ModelCost, ctx: int, batch: int) -> float:
    match metric:
        case "memory":
            return weighed(made_of["memory"], memory_features(cost, ctx, batch))
        case "prefill":
            return weighed(made_of["prefill"], prefill_features(cost, ctx))
        case _:
            return weighed(made_of["steps"], step_features(cost, ctx, batch))
