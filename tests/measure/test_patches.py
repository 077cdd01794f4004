"""Patches against a naive fit: the stock model's sub-blocks called one by one, in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lbdsl.actions.patches import FULL, patches_of, refactored, with_factor
from lbdsl.core.measurement import clustered_mean
from lbdsl.core.units import Unit
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import LayerChange, stats_in
from lbdsl.measure.expressions import made_of
from lbdsl.measure.flow import Flow, push
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.patch_factor import FACTORS, scale_patches
from lbdsl.measure.patches import fit_patches
from lbdsl.measure.runs import Measuring
from lbdsl.measure.statistics import keep_value, kept_statistics, kept_values, take_statistics
from lbdsl.measure.store import open_store
from lbdsl.measure.taken import NO_STATISTICS
from lbdsl.model.surgery import to_hybrid
from lbdsl.parts.attention import Window
from lbdsl.plan.made_from import PatchCheck
from lbdsl.recipe.load import recipe_from_text
from lbdsl.session.model import OpenModel
from lbdsl.solve.case import Case
from lbdsl.solve.select import select
from lbdsl.statistics.patch import RIDGE
from tests.family_cases import family_base
from tests.measure_cases import facts_of, text, tiny_llama, window_mask

pytestmark = pytest.mark.torch

KEY = "0" * 64
RULES = """layers 0 swa(window=5)
layers 1 drop(patch=linear)
layers 2 drop(block, patch=linear)
layers 3 drop(mlp, patch=linear)
"""
FIT, CHECK = text(5, 37), text(3, 21)


class Naive:
    """The model of `RULES`, run sub-block by sub-block on the states of both texts."""

    def __init__(self) -> None:
        self.model = tiny_llama(dtype=torch.float64)
        self.x = [self.model.model.embed_tokens(block.ids) for block in (FIT, CHECK)]

    def attention(self, index: int, states: list[Tensor], window: int | None = None) -> list[Tensor]:
        layer, found = self.model.model.layers[index], []
        for x in states:
            n = x.shape[1]
            places = self.model.model.rotary_emb(x, torch.arange(n)[None])
            mask = window_mask(n, Window(size=window or n))
            found.append(layer.self_attn(layer.input_layernorm(x), position_embeddings=places, attention_mask=mask)[0])
        return found

    def mlp(self, index: int, states: list[Tensor]) -> list[Tensor]:
        layer = self.model.model.layers[index]
        return [layer.mlp(layer.post_attention_layernorm(x)) for x in states]

    def patch(self, kept: list[Tensor], lost: list[Tensor]) -> Tensor:
        """The map of `kept`, of which `x` is the states before, by least squares; `x` is then the patched states."""
        m, r = kept[0].flatten(0, 1), lost[0].flatten(0, 1)
        ridge = RIDGE * m.square().sum(0).mean()
        rows = torch.cat([m, ridge.sqrt() * torch.eye(m.shape[1], dtype=m.dtype)])
        targets = torch.cat([r, torch.zeros(m.shape[1], r.shape[1], dtype=r.dtype)])
        found = torch.linalg.lstsq(rows, targets).solution.T
        there, lacking = (kept[1] @ found.T).flatten(), lost[1].flatten()
        share = float((there @ lacking / there.square().sum()).clamp(0, 1))
        value = torch.eye(len(found), dtype=found.dtype) + share * found
        self.x = [x + k @ value.T for x, k in zip(self.x, kept, strict=True)]
        return value


def add(states: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    return [x + y for x, y in zip(states, outputs, strict=True)]


@torch.no_grad()
def naive_patches() -> dict[str, Tensor]:
    run = Naive()
    run.x = add(run.x, run.attention(0, run.x, 5))
    kept = run.mlp(0, run.x)
    first = run.patch(kept, run.attention(1, add(run.x, kept)))
    kept = run.mlp(1, run.x)
    as_before = add(run.x, kept)
    attended = run.attention(2, as_before)
    second = run.patch(kept, add(attended, run.mlp(2, add(as_before, attended))))
    kept = run.attention(3, run.x)
    third = run.patch(kept, run.mlp(3, add(run.x, kept)))
    return {"0.ffn": first, "1.ffn": second, "3.mixer": third}


def changes_of(rules: str = RULES) -> Mapping[int, LayerChange]:
    return select(Case(recipe_from_text(rules).unwrap(), facts_of(tiny_llama())), {}).unwrap().changes


@pytest.fixture(scope="module")
def source() -> LoadedModel:
    return LoadedModel(to_hybrid(tiny_llama()))


def fit(source: LoadedModel, folder: Path, changes: Mapping[int, LayerChange], batch: int = 2) -> None:
    facts = facts_of(tiny_llama())
    fit_patches(lambda: source, facts, [changes], FIT, CHECK, NO_STATISTICS, folder, KEY, batch=batch)


def fitted(folder: Path, changes: Mapping[int, LayerChange]) -> dict[str, Tensor]:
    patches = patches_of(facts_of(tiny_llama()), with_factor(changes, FULL))
    return {str(p.at): kept_values(folder, KEY, p.at.layer, [p.stat])[p.stat.text] for p in patches}


def test_fitted_as_the_naive_way_does(source: LoadedModel, tmp_path: Path) -> None:
    wanted, changes = naive_patches(), changes_of()
    fit(source, tmp_path, changes)
    found = fitted(tmp_path, changes)
    assert sorted(found) == sorted(wanted)
    for at, value in wanted.items():
        torch.testing.assert_close(found[at].double(), value, rtol=2e-3, atol=2e-3)
    # They are maps that do something, and none is the whole of what was fitted.
    assert all((value - torch.eye(len(value))).norm() > 0.1 for value in wanted.values())


def test_a_fit_goes_on_from_the_patches_that_are_there(source: LoadedModel, tmp_path: Path) -> None:
    changes = changes_of()
    fit(source, tmp_path / "whole", changes)
    fit(source, tmp_path / "part", changes)
    wanted = fitted(tmp_path / "whole", changes)
    last = patches_of(facts_of(tiny_llama()), with_factor(changes, FULL))[-1]
    for path in (tmp_path / "part").rglob(f"{last.at.layer}.safetensors"):
        path.unlink()
    fit(source, tmp_path / "part", changes, batch=1)
    torch.testing.assert_close(fitted(tmp_path / "part", changes)[str(last.at)], wanted[str(last.at)], rtol=1e-3, atol=1e-4)
    # Where all are there, the model is not needed.
    facts = facts_of(tiny_llama())
    fit_patches(lambda: 1 / 0, facts, [changes], FIT, CHECK, NO_STATISTICS, tmp_path / "part", KEY)


def test_several_models_at_once_are_fitted_like_each_alone(source: LoadedModel, tmp_path: Path) -> None:
    facts = facts_of(tiny_llama())
    models = [changes_of(f"layers {i} drop({part}patch=linear)\n") for i in (1, 2, 3) for part in ("", "block, ", "mlp, ")]
    fit_patches(lambda: source, facts, models, FIT, CHECK, NO_STATISTICS, tmp_path / "all", KEY)
    for changes in models:
        fit(source, tmp_path / "one", changes, batch=1)
        for at, value in fitted(tmp_path / "one", changes).items():
            torch.testing.assert_close(fitted(tmp_path / "all", changes)[at], value, rtol=1e-3, atol=1e-4)


def test_the_output_of_a_narrower_mlp_is_mapped(source: LoadedModel, tmp_path: Path) -> None:
    """In a model where it is narrow already, the same patch comes out."""
    facts = facts_of(tiny_llama())
    narrow = changes_of("layers 1 width(64, refit=false)\n")
    changes = changes_of("layers 1 width(64, refit=false)\nlayers 2 drop(patch=linear)\n")
    used = {1: tuple(stats_in(expr for _, expr in narrow[1].weights))}
    taken = take_statistics(lambda: source, facts, used, FIT, tmp_path, KEY)
    fit_patches(lambda: source, facts, [changes], FIT, CHECK, taken, tmp_path, KEY)
    model = to_hybrid(tiny_llama())
    model.set_layer(1, narrow[1].spec.to_json(), made_of(model, 1, narrow[1].weights, taken(1)))
    there = replace(facts, layer_specs=(facts.layer_specs[0], narrow[1].spec, *facts.layer_specs[2:]))
    alone = select(Case(recipe_from_text("layers 2 drop(patch=linear)\n").unwrap(), there), {}).unwrap().changes
    fit_patches(lambda: LoadedModel(model), there, [alone], FIT, CHECK, NO_STATISTICS, tmp_path / "there", KEY)
    (value,), (wanted,) = fitted(tmp_path, changes).values(), fitted(tmp_path / "there", alone).values()
    torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["granite", "llama", "phi3", "qwen2", "qwen3", "smollm3"])
def test_a_patch_is_of_the_model_with_the_patches_before(family: str, tmp_path: Path) -> None:
    """In a model where those are merged already, the same patch comes out: biases and multipliers, too."""
    base = family_base(family).eval()
    base.save_pretrained(tmp_path / "base")
    facts = OpenModel(str(tmp_path / "base")).facts
    ids = [TokenBlocks(b.ids % facts.vocab, b.digest, "test", 1, None) for b in (FIT, CHECK)]

    def changes(rules: str, facts: ModelFacts) -> Mapping[int, LayerChange]:
        return select(Case(recipe_from_text(rules).unwrap(), facts), {}).unwrap().changes

    both = with_factor(changes("layers 1, 3 drop(patch=linear)\n", facts), FULL)
    source = LoadedModel(to_hybrid(copy.deepcopy(base)))
    fit_patches(lambda: source, facts, [both], *ids, NO_STATISTICS, tmp_path, KEY)
    kept = kept_statistics(tmp_path, KEY, {p.at.layer: [p.stat] for p in patches_of(facts, both)})
    model = to_hybrid(base)
    model.set_layer(0, both[0].spec.to_json(), made_of(model, 0, both[0].weights, kept(0)))
    model.set_layer(1, both[1].spec.to_json())
    there = replace(facts, layer_specs=tuple(both[i].spec if i == 1 else s for i, s in enumerate(facts.layer_specs)))
    alone = with_factor(changes("layers 3 drop(patch=linear)\n", there), FULL)
    fit_patches(lambda: LoadedModel(model), there, [alone], *ids, NO_STATISTICS, tmp_path / "there", KEY)
    (patch,) = patches_of(there, alone)
    wanted = kept_values(tmp_path / "there", KEY, 2, [patch.stat])[patch.stat.text]
    found = kept(2)[patches_of(facts, both)[1].stat.text]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert (wanted - torch.eye(len(wanted))).norm() > 0.01


def test_the_factor_is_the_smallest_within_an_error_of_the_best(source: LoadedModel, tmp_path: Path) -> None:
    facts, changes = facts_of(tiny_llama()), changes_of()
    fit(source, tmp_path, changes)
    full = fitted(tmp_path, changes)
    patches = patches_of(facts, changes)

    def scale(check: TokenBlocks) -> tuple[list[str], PatchCheck]:
        with open_store(tmp_path) as store:
            measuring = Measuring(lambda: source, check, store, check.digest)
            useless, brought = scale_patches(measuring, facts, changes, tmp_path, KEY)
        eye = torch.eye(48)
        now = {str(p.at): kept_values(tmp_path, KEY, p.at.layer, [p.stat])[p.stat.text] for p in patches}
        factors = {float((now[at] - eye).norm() / (full[at] - eye).norm()) for at in full}
        assert max(factors) - min(factors) < 1e-5
        assert brought.factor == pytest.approx(max(factors), abs=1e-5)
        return [str(place) for place in useless], brought

    useless, brought = scale(CHECK)
    # Another plan with these patches may have written them at another factor.
    for patch in patches:
        keep_value(tmp_path, KEY, patch.at.layer, patch.stat, torch.zeros(48, 48))
    assert scale(CHECK) == (useless, brought)
    scores = {}
    for name in FACTORS:
        times = with_factor(changes, name)
        values = {
            refactored(p.stat, name).text: torch.eye(48) + float(name) * (full[str(p.at)] - torch.eye(48)) for p in patches
        }
        flow = Flow(CHECK.ids, [times])
        push(source, [flow], statistics=lambda _layer, values=values: values)
        base, changed = (
            torch.log_softmax(source.hybrid.predict(states).double(), -1)[:, :-1]
            for states in (flow.base_BND, flow.changed[0])
        )
        kl = (base.exp() * (base - changed)).sum((1, 2))
        scores[name] = clustered_mean(kl.tolist(), [base.shape[1]] * len(kl), Unit.NATS)
    best = min(scores.values(), key=lambda score: score.value)
    wanted = next(name for name in FACTORS if scores[name].value <= best.value + best.stderr)
    assert brought.factor == float(wanted)
    assert brought.kl == pytest.approx(scores[wanted].value, rel=1e-4)
    assert brought.kl_without == pytest.approx(scores["0"].value, rel=1e-4)
    assert bool(useless) == (wanted == "0")
    assert math.isfinite(best.stderr)


def test_statistics_of_a_plan_hold_its_patches(source: LoadedModel, tmp_path: Path) -> None:
    facts, changes = facts_of(tiny_llama()), changes_of()
    fit(source, tmp_path, changes)
    with open_store(tmp_path) as store:
        scale_patches(Measuring(lambda: source, CHECK, store, "check"), facts, changes, tmp_path, KEY)
    used = {patch.at.layer: [patch.stat] for patch in patches_of(facts, changes)}
    digests = kept_statistics(tmp_path, KEY, used).digests(used)
    assert set(digests) == {patch.stat.text for patch in patches_of(facts, changes)}
