"""The engine against full forward passes; prefix reuse; resuming; two metrics from one run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measure_cases import LAYERS, facts_of, naive_influence, naive_scores, text, tiny_layer, tiny_llama

from lbdsl.actions.drop import Drop
from lbdsl.actions.keep import Keep
from lbdsl.actions.swa import SlidingWindow
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.measurement import Request
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure.engine import BASE_NLL, measure_requests
from lbdsl.measure.predictions import Predictions
from lbdsl.measure.store import Key, open_store
from lbdsl.metrics.kl import KullbackLeibler
from lbdsl.metrics.nll import NextTokenLoss
from lbdsl.model.surgery import to_hybrid

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
        return measure_requests(
            lambda: hybrid, facts_of(hybrid), requests, ACTIONS, blocks or text(), store, "print", **options
        )


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


def test_base_predictions_made_again_equal_those_kept(hybrid, monkeypatch):
    monkeypatch.setattr("lbdsl.measure.predictions.chunk_tokens", lambda device_type: 7)
    ids = text().ids
    with torch.inference_mode():
        last, other = (torch.randn(*ids.shape, 48, generator=torch.Generator().manual_seed(i)) for i in range(2))
        kept, remade = (Predictions(hybrid, last, ids, keep_bytes=size) for size in (2**30, 0))
        assert kept._kept is not None
        assert remade._kept is None
        assert kept.losses() == remade.losses()
        metrics = (NextTokenLoss, KullbackLeibler)
        assert kept.compare(other, metrics) == remade.compare(other, metrics)


class LayerCounter:
    """Counts (layers run, calls) of `run_layers`."""

    def __init__(self, hybrid, monkeypatch):
        self.layers = self.calls = 0
        run = hybrid.model.run_layers

        def counted(hidden, inputs, start=0, stop=None, **rest):
            self.layers += (LAYERS if stop is None else stop) - start
            self.calls += 1
            return run(hidden, inputs, start=start, stop=stop, **rest)

        monkeypatch.setattr(hybrid.model, "run_layers", counted)


def test_prefixes_and_runs_are_shared(hybrid, tmp_path, monkeypatch):
    counter = LayerCounter(hybrid, monkeypatch)
    drops = [Request(metric, "drop", layer) for metric in ("nll", "kl") for layer in range(LAYERS)]
    measure(hybrid, tmp_path, drops, text(2), batch=2)
    assert counter.calls == 1 + LAYERS
    assert counter.layers == LAYERS + sum(LAYERS - layer for layer in range(LAYERS))


def test_only_what_is_missing_is_run(hybrid, measured, tmp_path, monkeypatch):
    first = [r for r in REQUESTS if r.action == "drop" and r.metric == "nll"]
    measure(hybrid, tmp_path, first)
    counter = LayerCounter(hybrid, monkeypatch)
    found = measure(hybrid, tmp_path, [*first, Request("kl", "drop", 3), Request("influence", "", 1)])
    assert counter.calls == 5 * 2
    assert counter.layers == 5 * (LAYERS + 1)
    assert all(found[r].value == measured[r].value for r in found)
    with open_store(tmp_path) as store:
        again = measure_requests(fail_to_load, facts_of(hybrid), list(found)[:-1], ACTIONS, text(), store, "print")
        assert again == found
        with pytest.raises(AssertionError, match="not needed"):
            measure_requests(fail_to_load, facts_of(hybrid), list(found)[:-1], ACTIONS, text(), store, "other print")


def test_progress_rises_to_its_total(hybrid, tmp_path):
    reports = []
    measure(hybrid, tmp_path, batch=2, progress=lambda done, total, note="": reports.append((done, total, note)))
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert done[0] > 0
    assert done[-1] == pytest.approx(reports[-1][1])
    assert len({total for _, total, _ in reports}) == 1
    assert "layer 3" in reports[-1][2]


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
        measure_requests(fail_to_load, facts, [Request("nll", "swa(window=9)", 0)], ACTIONS, text(), store, "print")
    assert caught.value.diagnostics[0].code == "LB449"


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from measure_cases import facts_of, text, tiny_llama
from test_measure_engine import REQUESTS, measure
from lbdsl.model.surgery import to_hybrid
runs = 0
def progress(done, total, note=""):
    global runs
    runs += 1
    if runs == 21:
        os.kill(os.getpid(), signal.SIGKILL)
measure(to_hybrid(tiny_llama()), Path(sys.argv[1]), progress=progress)
"""


def test_resumed_after_a_kill(hybrid, measured, tmp_path, monkeypatch):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)], check=False, env=environment, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL
    with open_store(tmp_path) as store:
        keys = [Key(r.metric, r.action, r.layer) for r in REQUESTS if r.metric == "nll"]
        stored = sum(len(store.get("print", key)) for key in keys)
    # 21 reports: the base and 16 runs of one sequence, the base and 3 runs of the next. What is reported is safe.
    assert stored == 16 + 3
    counter = LayerCounter(hybrid, monkeypatch)
    again = measure(hybrid, tmp_path)
    assert again == measured
    assert counter.calls == (1 + 13) + 3 * (1 + 16)


def test_layer_without_its_weights_is_a_coded_error(tmp_path):
    model = to_hybrid(tiny_llama())
    model.set_layer(1, tiny_layer(attention=False).to_json())
    assert measure(model, tmp_path, [Request("nll", "drop", 1)])[Request("nll", "drop", 1)].value == 0
    with pytest.raises(LbdslError, match="layer 1") as caught:
        measure(model, tmp_path, [Request("nll", "swa(window=9)", 1)])
    assert caught.value.diagnostics[0].code == "LB449"
