"""Scores against full forward passes; prefix reuse; resuming; two metrics from one run."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lbdsl.actions.drop import Drop
from lbdsl.actions.keep import Keep
from lbdsl.actions.swa import SlidingWindow
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.measurement import Request
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure import flow, runs
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.predictions import Changed, compare
from lbdsl.measure.runs import BASE_NLL, Measuring
from lbdsl.measure.scores import measure_requests
from lbdsl.measure.store import open_store
from lbdsl.metrics.kl import KullbackLeibler
from lbdsl.metrics.nll import NextTokenLoss
from lbdsl.model.surgery import to_hybrid
from tests.measure_cases import (
    LAYERS,
    counting_layers,
    facts_of,
    naive_influence,
    naive_scores,
    text,
    tiny_layer,
    tiny_llama,
)

ACTIONS = {a.text(): a for a in (Drop(), SlidingWindow(window=6, sinks=2), SlidingWindow(window=9), Keep())}
REQUESTS = tuple(
    Request(metric, action, layer) for metric in ("nll", "kl") for action in ACTIONS for layer in range(LAYERS)
) + tuple(Request("influence", part, layer) for part in ("", "block") for layer in range(LAYERS))


@pytest.fixture(scope="module")
def stock():
    return tiny_llama()


@pytest.fixture(scope="module")
def hybrid():
    return to_hybrid(tiny_llama())


def measure(hybrid, folder, requests=REQUESTS, blocks=None, **options):
    with open_store(folder) as store:
        measuring = Measuring(lambda: LoadedModel(hybrid), blocks or text(), store, "print", **options)
        return measure_requests(measuring, facts_of(hybrid), requests, ACTIONS)


def fail_to_load():
    raise AssertionError("the model is not needed")


@pytest.fixture(scope="module")
def measured(hybrid, tmp_path_factory):
    return measure(hybrid, tmp_path_factory.mktemp("store"))


def spec_of(action: str, layer: int) -> LayerSpec:
    return ACTIONS[action].under(facts_of(tiny_llama()), layer).spec


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "keep"])
def test_scores_equal_full_forward_passes(stock, measured, action):
    blocks = text()
    for layer in range(LAYERS):
        expected = naive_scores(stock, blocks.ids, {layer: spec_of(action, layer)})
        for metric in ("nll", "kl"):
            found = measured[Request(metric, action, layer)]
            assert found.value == pytest.approx(expected[metric].mean().item(), abs=1e-5)
            assert abs(found.value) > 1e-3, "a tiny model in which the layer does not matter proves nothing"
            means = expected[metric].mean(1)
            assert found.stderr == pytest.approx(means.std().item() / math.sqrt(blocks.sequences), rel=1e-3)
            assert (found.unit, found.tokens, found.sequences) == ("nats/token", 5 * 36, 5)


def test_influence_and_base_loss(stock, measured):
    ids = text().ids
    for layer in range(LAYERS):
        found = measured[Request("influence", "", layer)]
        assert found.value == pytest.approx(naive_influence(stock, ids, layer).mean().item(), abs=1e-5)
        assert found.value > 1e-3
        assert found.tokens == 5 * 37
        block = measured[Request("influence", "block", layer)]
        assert block.value == pytest.approx(naive_influence(stock, ids, layer, whole=True).mean().item(), abs=1e-5)
        assert abs(block.value - found.value) > 1e-4
    expected = naive_scores(stock, ids, {})["base_nll"].mean().item()
    assert measured[BASE_NLL].value == pytest.approx(expected, abs=1e-5)


def test_keep_changes_nothing(measured):
    assert all(measured[Request(metric, "keep", layer)].value == 0 for metric in ("nll", "kl") for layer in range(LAYERS))


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_batches_give_the_same(hybrid, measured, tmp_path, batch):
    again = measure(hybrid, tmp_path, batch=batch)
    assert set(again) == set(measured) == {*REQUESTS, BASE_NLL}
    for request, value in measured.items():
        assert again[request].value == pytest.approx(value.value, abs=2e-6)
        assert again[request].stderr == pytest.approx(value.stderr, rel=1e-3, abs=1e-6)


def test_one_sequence_has_no_error_bar(hybrid, tmp_path):
    found = measure(hybrid, tmp_path, REQUESTS[:1], text(1, 16))[REQUESTS[0]]
    assert math.isnan(found.stderr)
    assert math.isfinite(found.value)


def test_predictions_in_chunks_and_of_many_models_at_once(hybrid, monkeypatch):
    ids = text().ids
    base, *others = (torch.randn(*ids.shape, 48, generator=torch.Generator().manual_seed(i)) for i in range(3))
    changed = [Changed(other, (NextTokenLoss, KullbackLeibler), hybrid) for other in others]
    whole, values = compare(hybrid, base, ids, changed)
    for each, value in zip(changed, values, strict=True):
        assert compare(hybrid, base, ids, [each]) == (whole, [value])
    monkeypatch.setattr("lbdsl.measure.predictions.chunk_tokens", lambda device_type: 7)
    losses, pieces = compare(hybrid, base, ids, changed)
    logp = torch.log_softmax(hybrid.predict(base), -1)[:, :-1].double()
    expected = -logp.gather(-1, ids[:, 1:, None]).squeeze(-1).sum(-1)
    assert [loss.total for loss in losses] == pytest.approx(expected.tolist(), rel=1e-6)
    assert [sums["kl"][0].total for sums in pieces] == pytest.approx([sums["kl"][0].total for sums in values], rel=1e-6)


def test_prefixes_and_runs_are_shared(hybrid, tmp_path):
    drops = [Request(metric, "drop", layer) for metric in ("nll", "kl") for layer in range(LAYERS)]
    with counting_layers(hybrid) as ran:
        measure(hybrid, tmp_path, drops, text(2), batch=2)
    assert len(ran) == LAYERS + sum(LAYERS - layer for layer in range(LAYERS))


def test_only_what_is_missing_is_run(hybrid, measured, tmp_path):
    first = [r for r in REQUESTS if r.action == "drop" and r.metric == "nll"]
    measure(hybrid, tmp_path, first)
    with counting_layers(hybrid) as ran:
        found = measure(hybrid, tmp_path, [*first, Request("kl", "drop", 3), Request("influence", "", 1)])
    assert len(ran) == 5 * (LAYERS + 1)
    assert all(found[r].value == measured[r].value for r in found)
    with open_store(tmp_path) as store:
        measuring = Measuring(fail_to_load, text(), store, "print")
        again = measure_requests(measuring, facts_of(hybrid), list(found)[:-1], ACTIONS)
        assert again == found
        other = replace(measuring, fingerprint="other print")
        with pytest.raises(AssertionError, match="not needed"):
            measure_requests(other, facts_of(hybrid), list(found)[:-1], ACTIONS)


@pytest.mark.parametrize("streams", [0, 5])
def test_in_little_memory_runs_are_done_in_several_passes(hybrid, measured, tmp_path, monkeypatch, streams):
    monkeypatch.setattr(flow, "free_bytes", lambda device: streams * 37 * 48 * 4 / flow.SHARE)
    most, push = [], runs.push
    monkeypatch.setattr(runs, "push", lambda source, flows, *a, **k: (most.append(flows), push(source, flows, *a, **k)))
    assert measure(hybrid, tmp_path) == measured
    assert {len(flows) for flows in most} == {1}
    assert max(len(flows[0].changes) for flows in most) == max(1, streams - 2)


def test_progress_rises_to_its_total(hybrid, tmp_path):
    reports = []
    measure(hybrid, tmp_path, batch=2, progress=lambda done, total, note="": reports.append((done, total, note)))
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert done[0] > 0
    assert done[-1] == pytest.approx(reports[-1][1])
    assert len({total for _, total, _ in reports}) == 1
    assert [note for *_, note in reports[-2:]] == ["sequences 5-5 of 5, layer 3", "sequences 5-5 of 5, predictions"]


def test_nothing_to_measure_is_only_the_base(hybrid, tmp_path):
    assert set(measure(hybrid, tmp_path, [])) == {BASE_NLL}


def test_the_model_is_left_as_it_was(hybrid, measured):
    fresh = to_hybrid(tiny_llama())
    ids = text().ids
    with torch.no_grad():
        assert torch.equal(hybrid(ids).logits, fresh(ids).logits)
    assert hybrid.config.lbdsl == fresh.config.lbdsl


def test_broken_weights_are_named(tmp_path):
    model = to_hybrid(tiny_llama())
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight[0, 0] = math.nan
    for _ in range(2):
        with pytest.raises(LbdslError, match="LB451"):
            measure(model, tmp_path, [Request("nll", "drop", 1)])


def test_a_layer_without_what_an_action_changes_cannot_be_measured(hybrid, tmp_path):
    facts = facts_of(hybrid)
    facts = replace(facts, layer_specs=(tiny_layer(attention=False), *facts.layer_specs[1:]))
    with open_store(tmp_path) as store, pytest.raises(LbdslError, match=r"it has no `mixer\.window`") as caught:
        measure_requests(
            Measuring(fail_to_load, text(), store, "print"), facts, [Request("nll", "swa(window=9)", 0)], ACTIONS
        )
    assert caught.value.diagnostics[0].code == "LB449"


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from tests.measure_cases import facts_of, text, tiny_llama
from test_measure_scores import REQUESTS, measure
from lbdsl.model.surgery import to_hybrid
runs = 0
def progress(done, total, note=""):
    global runs
    runs += 1
    if runs == 2 * 5 + 3:
        os.kill(os.getpid(), signal.SIGKILL)
measure(to_hybrid(tiny_llama()), Path(sys.argv[1]), progress=progress)
"""


def test_resumed_after_a_kill(hybrid, measured, tmp_path, clean_process):
    here = Path(__file__).parent
    ended = clean_process.run(KILLED, tmp_path, here, here.parent, here.parent.parent, cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL
    # Each sequence reports its 4 layers and its predictions: two were through.
    with open_store(tmp_path) as store:
        assert sum(len(store.get("print", request)) for request in REQUESTS) == 2 * len(REQUESTS)
    with counting_layers(hybrid) as ran:
        assert measure(hybrid, tmp_path) == measured
    with counting_layers(hybrid) as all_that_ran:
        measure(hybrid, tmp_path / "other")
    assert len(ran) == len(all_that_ran) * 3 / 5


def test_layer_without_its_weights_is_a_coded_error(tmp_path):
    model = to_hybrid(tiny_llama())
    model.set_layer(1, tiny_layer(attention=False).to_json())
    assert measure(model, tmp_path, [Request("nll", "drop", 1)])[Request("nll", "drop", 1)].value == 0
    with pytest.raises(LbdslError, match="layer 1") as caught:
        measure(model, tmp_path, [Request("nll", "swa(window=9)", 1)])
    assert caught.value.diagnostics[0].code == "LB449"
