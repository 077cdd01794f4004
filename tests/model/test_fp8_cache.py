"""Keys and values in 8-bit floats against a stock model whose keys and values are rounded by the definition; in float64,
for in float32 a number between two floats may become either."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes
from tests.hybrid_cases import FULL, NONE, cache_of, cached_logits, hybrid_of, stock_logits, swa, tiny_base
from tests.numbers_e4m3 import nearest

W, N = 5, 3


def in_floats(spec: dict) -> dict:
    return {**spec, "mixer": {**spec["mixer"], "cache": "fp8"}}


PLANS = {
    "everywhere": [in_floats(FULL)] * 4,
    "windows, full heads": [in_floats(swa(W, N)), in_floats(swa(W, N, 1)), in_floats(swa(2 * W)), in_floats(FULL)],
    "in some layers": [FULL, in_floats(swa(W, N)), NONE, in_floats(FULL)],
}


def rounded(module, query, key, value, mask, **kwargs):
    return sdpa_attention_forward(module, query, nearest(key), nearest(value), mask, **kwargs)


AttentionInterface.register("test_rounded", rounded)


def stock(base, specs: list[dict], ids: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    base = copy.deepcopy(base)
    for layer, spec in zip(base.model.layers, specs, strict=True):
        if (spec["mixer"] or {}).get("cache"):
            layer.self_attn.config = copy.deepcopy(base.config)
            layer.self_attn.config._attn_implementation = "test_rounded"
    return stock_logits(base, specs, ids, real)


@pytest.fixture(scope="module")
def base():
    return tiny_base().double()


@pytest.mark.parametrize("length", [1, W, W + N + 1, 23])
@pytest.mark.parametrize("name", PLANS)
def test_logits_are_those_of_rounded_keys_and_values(name: str, length: int, base) -> None:
    specs = PLANS[name]
    model = hybrid_of(base, specs)
    ids = torch.randint(0, 101, (2, length), generator=torch.Generator().manual_seed(length))
    expected = stock(base, specs, ids)
    plain = stock_logits(base, [_plain(spec) for spec in specs], ids)
    assert length == 1 or (expected - plain).abs().max() > 0.01
    with torch.no_grad():
        assert (model(input_ids=ids, use_cache=False).logits - expected).abs().max() < 1e-9
    for chunk in (1, 3, length):
        assert (cached_logits(model, ids, chunk) - expected).abs().max() < 1e-9, chunk


def _plain(spec: dict) -> dict:
    return {**spec, "mixer": spec["mixer"] and {name: value for name, value in spec["mixer"].items() if name != "cache"}}


@pytest.mark.parametrize("name", PLANS)
def test_padding_static_caches_and_beams(name: str, base) -> None:
    specs = PLANS[name]
    model = hybrid_of(base, specs)
    ids = torch.randint(1, 101, (2, 19), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids)
    real[1, :4] = 0
    expected = stock(base, specs, ids, real)
    found = cached_logits(model, ids, 3, real)
    assert (found - expected)[real.bool()].abs().max() < 1e-9
    with torch.no_grad():
        static = StaticCache(config=base.config, max_cache_len=32)
        parts = [
            model(input_ids=ids[:, at : at + 1], use_cache=True, **{CACHE_NAME: static}).logits
            for at in range(ids.shape[1])
        ]
    assert (torch.cat(parts, 1) - stock(base, specs, ids)).abs().max() < 1e-9
    words = {"num_beams": 3, "do_sample": False, "pad_token_id": 0, "length_penalty": 0.0}
    out = model.generate(ids, max_new_tokens=12, **words, return_dict_in_generate=True, output_scores=True)
    chosen = out.sequences[:, 19:, None]
    scores = stock(base, specs, out.sequences).log_softmax(-1)[:, 18:-1].gather(-1, chosen).sum((1, 2))
    assert (scores - out.sequences_scores).abs().max() < 1e-5  # generate adds them up in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PLANS)
def test_a_number_takes_one_byte(name: str, dtype: torch.dtype, base) -> None:
    specs = PLANS[name]
    model = hybrid_of(base, specs).to(dtype)
    ids = torch.randint(0, 101, (1, 30))
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=True)
        out = model(input_ids=ids[:, :1], use_cache=True, **{CACHE_NAME: cache_of(out)})
    tokens = {None: 31, W: min(31, W + N), 2 * W: 2 * W}
    expected = 0
    for spec in specs:
        if spec["mixer"] is not None:
            window = spec["mixer"]["window"]
            full = (window or {}).get("full_heads", 0)
            held = 31 * full + (2 - full) * tokens[window and window["size"]]
            expected += 2 * 8 * held * (1 if spec["mixer"].get("cache") else dtype.itemsize)
    assert cache_storage_bytes(cache_of(out)) == expected


def test_what_lies_beyond_saturates_and_gradients_pass(base) -> None:
    model = hybrid_of(base, PLANS["everywhere"])
    layer = model.model.layers[0].self_attn
    with torch.no_grad():
        layer.v_proj.weight.mul_(1e5)
    out = model(input_ids=torch.arange(1, 20)[None], use_cache=False).logits
    assert torch.isfinite(out).all()
    out.square().mean().backward()
    assert torch.isfinite(layer.k_proj.weight.grad).all()
    assert layer.k_proj.weight.grad.abs().sum() > 0


def test_another_form_is_refused(base) -> None:
    spec = {**FULL, "mixer": {**FULL["mixer"], "cache": "fp4"}}
    with pytest.raises(ValueError, match="the cache of attention is 'fp4'"):
        hybrid_of(base, [spec] * 4)
