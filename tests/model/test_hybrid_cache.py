"""Caches hold what the formula says, in storage; generation equals recomputation; what cannot be done is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes
from tests.hybrid_cases import FULL, NONE, cache_of, hybrid_of, plans, swa, tiny_base
from tests.specs import window_of

W, N = 5, 3
TOKEN_BYTES = 2 * 2 * 8 * 4  # keys and values, 2 kv heads of 8, fp32
UNBOUNDED = 10**9


def formula(specs, tokens: int) -> int:
    return (
        TOKEN_BYTES
        // 2
        * sum(
            full * tokens + (2 - full) * min(tokens, held(spec))
            for spec in specs
            for full in [(window_of(spec) or {}).get("full_heads", 0)]
        )
    )


def held(spec) -> int:
    """Tokens that a layer holds at most."""
    if spec["mixer"] is None:
        return 0
    window = window_of(spec)
    return UNBOUNDED if window is None else window["size"] + window["sink_tokens"]


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
        if spec["mixer"] is None:
            assert layer.keys is None


@pytest.mark.parametrize("name", plans())
def test_generation_far_past_the_window_equals_one_forward(name: str) -> None:
    model = hybrid_of(tiny_base(), plans(16, 4)[name])
    prompt = torch.randint(1, 101, (3, 24), generator=torch.Generator().manual_seed(5))
    out = model.generate(
        prompt, max_new_tokens=160, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0
    )
    with torch.no_grad():
        whole = model(input_ids=out.sequences, use_cache=False).logits[:, 23:-1]
    step = torch.stack(out.logits, dim=1)
    assert step.shape[1] == 160
    assert (step - whole).abs().max() < 1e-3
    # The same tokens, but for ties: where they differ, the two best logits are equal up to rounding.
    chosen = whole.gather(-1, out.sequences[:, 24:].unsqueeze(-1)).squeeze(-1)
    assert (whole.max(-1).values - chosen).max() < 1e-4
    assert (whole.argmax(-1) != out.sequences[:, 24:]).sum() <= 2


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_all_kept_is_the_base_bit_for_bit_but_for_single_tokens_by_sdpa(implementation: str) -> None:
    # Those are rounded in another way: in double precision the rest of the difference shows.
    base = tiny_base().to(torch.float32 if implementation == "eager" else torch.float64)
    base.set_attn_implementation(implementation)
    model = hybrid_of(base, [FULL] * 4)
    ids = torch.randint(1, 101, (2, 33))
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    ours = model.generate(
        ids, max_new_tokens=20, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0
    )
    theirs = base.generate(
        ids, max_new_tokens=20, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0
    )
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.logits[0], theirs.logits[0])
    torch.testing.assert_close(
        torch.stack(ours.logits), torch.stack(theirs.logits), rtol=0, atol=0 if implementation == "eager" else 1e-12
    )


@pytest.mark.parametrize("name", plans())
def test_generate_of_a_left_padded_batch_equals_each_prompt_alone(name: str) -> None:
    model = hybrid_of(tiny_base(), plans(W, N)[name])
    prompts = [torch.randint(1, 101, (length,), generator=torch.Generator().manual_seed(length)) for length in (4, 9, 15)]
    ids = torch.stack([torch.cat([torch.zeros(15 - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.cat([torch.zeros(15 - len(p)), torch.ones(len(p))]) for p in prompts]).long()
    batched = model.generate(ids, attention_mask=mask, max_new_tokens=30, do_sample=False, pad_token_id=0)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt.unsqueeze(0), max_new_tokens=30, do_sample=False, pad_token_id=0)
        assert torch.equal(batched[row, 15:], alone[0, len(prompt) :])


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
    with pytest.raises(ValueError, match="a StaticCache or none at all, not EncoderDecoderCache"):
        model(input_ids=ids, **{CACHE_NAME: EncoderDecoderCache(DynamicCache(), DynamicCache())})
    with torch.no_grad():
        filled = cache_of(tiny_base()(input_ids=ids, use_cache=True))
    with pytest.raises(ValueError, match="filled by another model"):
        model(input_ids=ids, **{CACHE_NAME: filled})
    with pytest.raises(ValueError, match="batched continuously"):
        model.generate_batch([[1, 2, 3]])


@pytest.mark.skipif(
    torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="transformers makes this cache on a GPU, and this torch for CUDA finds none",
)
def test_an_offloaded_cache_is_refused_on_the_cpu() -> None:
    model = hybrid_of(tiny_base(), [NONE, FULL, FULL, FULL])
    with pytest.raises(ValueError, match="is on the CPU already"):
        model.generate(torch.randint(0, 101, (1, 8)), max_new_tokens=2, cache_implementation="offloaded")


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("static", [False, True])
def test_steps_over_any_cache_give_the_logits_of_one_forward(name: str, static: bool) -> None:
    """Without any mask given: nothing may see what a static cache has only reserved."""
    model = hybrid_of(tiny_base(), plans(W, N)[name])
    ids = torch.randint(1, 101, (2, 30), generator=torch.Generator().manual_seed(4))
    cache = StaticCache(config=model.config, max_cache_len=48) if static else DynamicCache()
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        for start, stop in ((0, 9), (9, 15), (15, 16), (16, 17), (17, 24), *((i, i + 1) for i in range(24, 30))):
            part = model(input_ids=ids[:, start:stop], use_cache=True, **{CACHE_NAME: cache}).logits
            assert (part - whole[:, start:stop]).abs().max() < 1e-4, start


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", ["none", "so far", "of all to come"])
def test_single_tokens_over_a_fresh_static_cache(name: str, implementation: str, mask: str) -> None:
    """The first token comes alone; the mask may already speak of columns that are only reserved."""
    model = hybrid_of(tiny_base(), plans(W, N)[name])
    model.set_attn_implementation(implementation)
    ids = torch.randint(1, 101, (2, 16), generator=torch.Generator().manual_seed(5))
    cache = StaticCache(config=model.config, max_cache_len=20)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        for at in range(ids.shape[1]):
            columns = {"none": 0, "so far": at + 1, "of all to come": 20}[mask]
            given = {"attention_mask": torch.ones(2, columns, dtype=torch.long)} if columns else {}
            part = model(input_ids=ids[:, at : at + 1], use_cache=True, **given, **{CACHE_NAME: cache}).logits
            assert (part - whole[:, at : at + 1]).abs().max() < 1e-4, at


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("beams", [1, 3])
def test_a_static_cache_gives_the_same(name: str, beams: int) -> None:
    specs = plans(W, N)[name]
    model = hybrid_of(tiny_base(), specs)
    ids = torch.randint(1, 101, (2, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    options = {
        "attention_mask": mask,
        "max_new_tokens": 20,
        "do_sample": False,
        "num_beams": beams,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
    }
    static = model.generate(ids, cache_implementation="static", **options)
    assert torch.equal(static.sequences, model.generate(ids, **options).sequences)
    rows = 2 * beams
    reserved = [layer for layer, spec in zip(cache_of(static).layers, specs, strict=True) if held(spec) == UNBOUNDED]
    assert all(layer.keys.shape[2] >= 31 for layer in reserved)
    others = formula([spec for spec in specs if held(spec) < UNBOUNDED], 31)
    full = sum(layer.keys.shape[2] for layer in reserved)
    counters = 8 * len(reserved)
    assert cache_storage_bytes(cache_of(static)) == rows * (others + TOKEN_BYTES * full) + counters
    # Its space is used again.
    again = DynamicCache() if beams > 1 else cache_of(static)
    again.reset()
    once_more = model.generate(ids, **{**options, CACHE_NAME: again, "num_beams": 1})
    assert torch.equal(once_more.sequences, model.generate(ids, **{**options, "num_beams": 1}).sequences)


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("static", [False, True])
def test_prefill_in_chunks(name: str, static: bool) -> None:
    model = hybrid_of(tiny_base(), plans(W, N)[name])
    ids = torch.randint(1, 101, (2, 23), generator=torch.Generator().manual_seed(3))
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    kind = {"cache_implementation": "static"} if static else {}
    assert torch.equal(model.generate(ids, prefill_chunk_size=6, **kind, **options), model.generate(ids, **options))


@pytest.mark.gpu
@pytest.mark.parametrize("name", plans())
def test_an_offloaded_cache_gives_the_same(name: str) -> None:
    model = hybrid_of(tiny_base(), plans(W, N)[name]).to("cuda")
    ids = torch.randint(1, 101, (2, 23), device="cuda")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, cache_implementation="offloaded", **options), model.generate(ids, **options))


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
