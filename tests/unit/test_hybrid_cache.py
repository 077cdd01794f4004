"""Caches hold what the formula says, in storage; generation equals recomputation; what cannot be done is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes
from tests.hybrid_cases import FULL, NONE, cache_of, hybrid_of, plans, swa, tiny_base

W, N = 5, 3
TOKEN_BYTES = 2 * 2 * 8 * 4  # keys and values, 2 kv heads of 8, fp32


def formula(specs, tokens: int) -> int:
    held = {"none": lambda s: 0, "full": lambda s: tokens, "swa": lambda s: min(tokens, s["window"] + s["sinks"])}
    return TOKEN_BYTES * sum(held[s["attn"]](s) for s in specs)


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("prefill", [1, W, W + N, W + N + 1, 40])
def test_storage_is_the_formula_at_every_length(name: str, prefill: int) -> None:
    specs = plans(W, N)[name]
    model = hybrid_of(tiny_base(), specs)
    ids = torch.randint(0, 101, (1, prefill + 12))
    with torch.no_grad():
        out = model(input_ids=ids[:, :prefill], use_cache=True)
        for seen in range(prefill, prefill + 12):
            assert cache_storage_bytes(cache_of(out)) == formula(specs, seen)
            out = model(input_ids=ids[:, seen : seen + 1], use_cache=True, **{CACHE_NAME: cache_of(out)})
    assert cache_of(out).get_seq_length() == prefill + 12
    for layer, spec in zip(cache_of(out).layers, specs, strict=True):
        if spec["attn"] == "none":
            assert layer.keys is None


@pytest.mark.parametrize("name", plans())
def test_generation_far_past_the_window_equals_one_forward(name: str) -> None:
    model = hybrid_of(tiny_base(), plans(16, 4)[name])
    prompt = torch.randint(1, 101, (3, 24), generator=torch.Generator().manual_seed(5))
    out = model.generate(prompt, max_new_tokens=620, do_sample=False, output_logits=True, return_dict_in_generate=True,
                         pad_token_id=0)
    with torch.no_grad():
        whole = model(input_ids=out.sequences, use_cache=False).logits[:, 23:-1]
    step = torch.stack(out.logits, dim=1)
    assert step.shape[1] == 620
    assert (step - whole).abs().max() < 1e-3
    # The same tokens, but for ties: where they differ, the two best logits are equal up to rounding.
    chosen = whole.gather(-1, out.sequences[:, 24:].unsqueeze(-1)).squeeze(-1)
    assert (whole.max(-1).values - chosen).max() < 1e-4
    assert (whole.argmax(-1) != out.sequences[:, 24:]).sum() <= 2


def test_all_kept_is_the_base_bit_for_bit() -> None:
    base = tiny_base()
    model = hybrid_of(base, [FULL] * 4)
    ids = torch.randint(1, 101, (2, 33))
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    ours = model.generate(ids, max_new_tokens=20, do_sample=False, output_logits=True, return_dict_in_generate=True,
                          pad_token_id=0)
    theirs = base.generate(ids, max_new_tokens=20, do_sample=False, output_logits=True, return_dict_in_generate=True,
                           pad_token_id=0)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(torch.stack(ours.logits), torch.stack(theirs.logits))


@pytest.mark.parametrize("name", plans())
def test_generate_of_a_left_padded_batch_equals_each_prompt_alone(name: str) -> None:
    model = hybrid_of(tiny_base(), plans(W, N)[name])
    prompts = [torch.randint(1, 101, (length,), generator=torch.Generator().manual_seed(length)) for length in (4, 9, 15)]
    ids = torch.stack([torch.cat([torch.zeros(15 - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.cat([torch.zeros(15 - len(p)), torch.ones(len(p))]) for p in prompts]).long()
    batched = model.generate(ids, attention_mask=mask, max_new_tokens=30, do_sample=False, pad_token_id=0)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt.unsqueeze(0), max_new_tokens=30, do_sample=False, pad_token_id=0)
        assert torch.equal(batched[row, 15:], alone[0, len(prompt):])


@pytest.mark.parametrize("name", plans())
def test_beam_search_equals_search_without_a_cache(name: str) -> None:
    model = hybrid_of(tiny_base(), plans(W, N)[name])
    ids = torch.randint(1, 101, (2, 12))
    options = {"num_beams": 3, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


def test_a_users_own_dynamic_cache_is_taken() -> None:
    model = hybrid_of(tiny_base(), [NONE, swa(W, N), FULL, FULL])
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.randint(0, 101, (1, 30)), use_cache=True, **{CACHE_NAME: cache})
    assert cache_storage_bytes(cache) == formula([NONE, swa(W, N), FULL, FULL], 30)


def test_caches_of_other_kinds_are_refused() -> None:
    model = hybrid_of(tiny_base(), [NONE, FULL, FULL, FULL])
    ids = torch.randint(0, 101, (1, 8))
    with pytest.raises(ValueError, match="DynamicCache or none at all, not StaticCache"):
        model(input_ids=ids, **{CACHE_NAME: StaticCache(config=model.config, max_cache_len=16)})
    with torch.no_grad():
        filled = cache_of(tiny_base()(input_ids=ids, use_cache=True))
    with pytest.raises(ValueError, match="filled by another model"):
        model(input_ids=ids, **{CACHE_NAME: filled})


def test_crop_goes_back_while_nothing_is_overwritten() -> None:
    model = hybrid_of(tiny_base(), [NONE, swa(12, 2), FULL, FULL])
    ids = torch.randint(0, 101, (1, 20))
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids[:, :10], use_cache=True))
        cache.crop(-3)
        assert cache.get_seq_length() == 7
        again = model(input_ids=ids[:, 7:20], use_cache=True, **{CACHE_NAME: cache}).logits
        whole = model(input_ids=ids).logits
    assert (again - whole[:, 7:]).abs().max() < 1e-4
    with pytest.raises(ValueError, match="cannot go back"):
        cache.crop(-1)
