"""SmolLM2-135M: the engine against full forward passes, its cost, and what its scores say."""

from __future__ import annotations

import time

import pytest
import torch

from lbdsl.actions.drop import Drop
from lbdsl.core.measurement import Request
from lbdsl.data.blocks import token_blocks
from lbdsl.data.split import TextPart
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.runs import Measuring
from lbdsl.measure.scores import measure_plans, measure_requests
from lbdsl.measure.store import open_store
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load import load_base, load_tokenizer
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from tests.measure_cases import naive_logp
from tests.real_model import model_folder

LAYERS = 30


@pytest.mark.slow
def test_smollm2(tmp_path):
    source = resolve_source(model_folder())
    stock = load_base(source, dtype="float32", device="cpu", cache_dir=tmp_path)
    blocks = token_blocks("builtin:pydoc", TextPart.SCORE, load_tokenizer(source, cache_dir=tmp_path), 1024, 512)
    target = blocks.ids[:, 1:, None]

    facts = inspect_model(source, "float32").unwrap()
    drop = Drop().under(facts, 0)
    naive, naive_seconds = [], 0.0
    for layer in (None, *range(LAYERS)):
        start = time.perf_counter()
        changes = {} if layer is None else {layer: drop.spec}
        logp = torch.cat([naive_logp(stock, row[None], changes, torch.float32) for row in blocks.ids])[:, :-1]
        naive.append(-logp.gather(-1, target).mean().item())
        naive_seconds += time.perf_counter() - start

    hybrid = to_hybrid(stock)
    requests = [Request("nll", "drop", layer) for layer in range(LAYERS)]
    with open_store(tmp_path) as store:
        start = time.perf_counter()
        measuring = Measuring(lambda: LoadedModel(hybrid), blocks, store, "print")
        found = measure_requests(measuring, facts, requests, {"drop": Drop()})
        seconds = time.perf_counter() - start
        scores = [found[request].value for request in requests]
        assert scores == pytest.approx([value - naive[0] for value in naive[1:]], abs=2e-5)
        print(f"engine {seconds:.1f} s, naive {naive_seconds:.1f} s, ratio {seconds / naive_seconds:.2f}")
        assert seconds < 0.75 * naive_seconds

        order = sorted(range(LAYERS), key=scores.__getitem__)
        assert {0, 1} == set(order[-2:]), "the first layers carry the model"
        chosen = order[:8]
        plans = {"eight": dict.fromkeys(chosen, drop)}
        (joint,) = measure_plans(measuring, plans, ("nll",))
        assert joint.scores["nll"].value > sum(scores[layer] for layer in chosen), "single layers' scores do not add up"
