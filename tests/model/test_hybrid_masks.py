"""Logits of hybrid models equal those of stock transformers under explicit masks, in prefill and in decode."""

from __future__ import annotations

import pytest
import torch

from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME
from tests.hybrid_cases import FULL, NONE, cache_of, cached_logits, hybrid_of, plans, stock_logits, swa, tiny_base

W, N = 5, 3
LENGTHS = (W - 1, W, W + 1, W + N + 1, 17, 23)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", plans())
def test_logits_equal_explicit_masks(name: str, length: int) -> None:
    base, specs = tiny_base(), plans(W, N)[name]
    model = hybrid_of(base, specs)
    ids = torch.randint(0, 101, (2, length), generator=torch.Generator().manual_seed(length))
    expected = stock_logits(base, specs, ids)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
    assert (whole - expected).abs().max() < 1e-4
    for chunk in (1, 2, 3, 7, length):
        assert (cached_logits(model, ids, chunk) - expected).abs().max() < 1e-4, chunk


@pytest.mark.parametrize("sinks", [0, 1, 4])
@pytest.mark.parametrize("window", [1, 2, 6])
def test_windows_and_sinks_of_odd_sizes(window: int, sinks: int) -> None:
    base, specs = tiny_base(1), [swa(window, sinks)] * 4
    model = hybrid_of(base, specs)
    for length in (1, window, window + sinks + 1, 19):
        ids = torch.randint(0, 101, (1, length), generator=torch.Generator().manual_seed(7))
        expected = stock_logits(base, specs, ids)
        for chunk in (1, 4, length):
            assert (cached_logits(model, ids, chunk) - expected).abs().max() < 1e-4, (length, chunk)


def test_eager_attention_gives_the_same() -> None:
    base, specs = tiny_base(), plans(W, N)["two window sizes"]
    model = hybrid_of(base, specs)
    ids = torch.randint(0, 101, (2, 21))
    with torch.no_grad():
        sdpa = model(input_ids=ids).logits
        model.set_attn_implementation("eager")
        eager = model(input_ids=ids).logits
    assert (sdpa - eager).abs().max() < 1e-4


def test_the_plans_really_differ() -> None:
    """A check on the other tests: weights are such that every plan changes the logits."""
    base = tiny_base()
    ids = torch.randint(0, 101, (1, 23))
    logits = {name: stock_logits(base, specs, ids) for name, specs in plans(W, N).items()}
    for name, value in logits.items():
        if name != "all kept":
            assert (value - logits["all kept"]).abs().max() > 0.1, name


def padded(length: int, pads: tuple[int, ...], seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 101, (len(pads), length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
        ids[row, :pad] = 0
    return ids, mask


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("pads", [(0, 1, 2), (3, 0, 9), (4, 7, 12), (1, 1, 1)])
def test_rows_of_a_left_padded_batch_equal_rows_alone(name: str, pads: tuple[int, ...]) -> None:
    base, specs, length = tiny_base(), plans(W, N)[name], 21
    model = hybrid_of(base, specs)
    ids, mask = padded(length, pads)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        batched = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    cached = {chunk: padded_cached(model, ids, mask, positions, chunk) for chunk in (1, 3, 13)}
    for row, pad in enumerate(pads):
        alone = stock_logits(base, specs, ids[row : row + 1, pad:])
        assert (batched[row : row + 1, pad:] - alone).abs().max() < 1e-4
        for chunk, logits in cached.items():
            assert (logits[row : row + 1, pad:] - alone).abs().max() < 1e-4, (row, chunk)
    assert torch.isfinite(batched).all()


def padded_cached(model, ids, mask, positions, chunk: int) -> torch.Tensor:
    cache, parts = {}, []
    with torch.no_grad():
        for start in range(0, ids.shape[1], chunk):
            out = model(
                input_ids=ids[:, start : start + chunk],
                attention_mask=mask[:, : start + chunk],
                position_ids=positions[:, start : start + chunk],
                use_cache=True,
                **cache,
            )
            cache = {CACHE_NAME: cache_of(out)}
            parts.append(out.logits)
    return torch.cat(parts, dim=1)


def test_padding_among_the_sinks_is_refused() -> None:
    model = hybrid_of(tiny_base(), [swa(W, N), FULL, FULL, FULL])
    ids = torch.randint(0, 101, (1, 20))
    mask = torch.ones_like(ids)
    mask[0, 1] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        model(input_ids=ids, attention_mask=mask)


def test_a_mask_of_the_wrong_length_is_refused() -> None:
    model = hybrid_of(tiny_base(), [NONE, FULL, FULL, FULL])
    ids = torch.randint(0, 101, (1, 8))
    with pytest.raises(ValueError, match="columns"):
        model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1]]))


def test_gradients_reach_every_weight_with_and_without_checkpointing() -> None:
    ids = torch.randint(0, 101, (2, 19))
    grads = []
    for checkpointing in (False, True):
        model = hybrid_of(tiny_base(), plans(W, N)["two window sizes"]).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(input_ids=ids, labels=ids).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
        assert all(g is not None and g.abs().sum() > 0 for g in grads[-1].values())
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])
