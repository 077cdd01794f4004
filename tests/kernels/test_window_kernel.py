"""The Triton kernels against a naive softmax in float64: outputs and gradients, at odd sizes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

from lbdsl.kernels.decode import decode_attention
from lbdsl.kernels.window import window_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Without a GPU the interpreter runs them."""


def naive(query, key, value, window, sinks=0, learned=None, causal=True, scaling=None):
    """In float64: [B, H, N, D]."""
    query, key, value = (states.double() for states in (query, key, value))
    shared = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(shared, 1) for states in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if causal:
        q, k = (torch.arange(n, device=query.device) for n in (query.shape[2], key.shape[2]))
        scores = scores.masked_fill(~((k <= q[:, None]) & ((k > q[:, None] - window) | (k < sinks))), -torch.inf)
    if learned is not None:
        scores = torch.cat([scores, learned.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    return scores.softmax(-1)[..., : key.shape[2]] @ value


def made(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


CASES = [
    # tokens, window, sinks, learned, heads, groups, size
    (63, 62, 0, False, 2, 1, 16),
    (63, 63, 0, True, 2, 2, 16),
    (63, 64, 3, False, 3, 1, 16),
    (111, 1, 0, False, 2, 1, 16),
    (111, 40, 4, False, 4, 2, 24),
    (111, 112, 0, True, 2, 1, 16),
    (256, 64, 0, True, 3, 1, 32),
    (256, 255, 1, False, 2, 1, 16),
    (300, 100, 70, False, 2, 1, 16),
    (200, 17, 5, True, 4, 2, 40),
    (300, 300, 0, False, 1, 1, 64),
]


@pytest.mark.parametrize(("tokens", "window", "sinks", "learned", "heads", "groups", "size"), CASES)
def test_windows(tokens: int, window: int, sinks: int, learned: bool, heads: int, groups: int, size: int) -> None:
    rows = 2 if tokens < 256 else 1
    states = [made(rows, heads, tokens, size, seed=1), *(made(rows, groups, tokens, size, seed=s) for s in (2, 3))]
    extra = [made(heads, seed=4)] if learned else []
    for state in (*states, *extra):
        state.requires_grad_(True)
    found = window_attention(*states, window, sinks, *extra)
    expected = naive(*states, window, sinks, *extra)
    assert (found - expected).abs().max() < 1e-5
    weight = made(*expected.shape, seed=5)
    ours = torch.autograd.grad((found * weight).sum(), [*states, *extra])
    theirs = torch.autograd.grad((expected * weight).sum(), [*states, *extra])
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).abs().max() < 1e-4 * max(1.0, reference.abs().max().item())


def test_strided_states_are_read_as_they_are() -> None:
    """As attention modules make them: [B, N, H, D] in memory."""
    states = [made(1, 90, heads, 16, seed=heads).transpose(1, 2) for heads in (4, 2, 2)]
    assert (window_attention(*states, 30) - naive(*states, 30)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float16, 5e-3), pytest.param(torch.bfloat16, 4e-2, marks=pytest.mark.gpu)]
)
def test_16_bits(dtype: torch.dtype, error: float) -> None:
    """As GPUs run them; outputs and gradients. The interpreter takes bfloat16 for integers."""
    states = [made(1, heads, 100, 32, seed=heads).to(dtype).requires_grad_(True) for heads in (4, 2, 2)]
    found, expected = window_attention(*states, 30, 2), naive(*states, 30, 2)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < error
    ours, theirs = (torch.autograd.grad(output.sum(), states) for output in (found, expected))
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).abs().max() < 2 * error * max(1.0, reference.abs().max().item())


def test_scores_are_scaled_as_asked() -> None:
    """Gemma's and Granite's attention has a scale of its own."""
    states = [made(1, heads, 70, 16, seed=heads).requires_grad_(True) for heads in (4, 2, 2)]
    found, expected = window_attention(*states, 30, scaling=0.7), naive(*states, 30, scaling=0.7)
    assert (found - expected).abs().max() < 1e-5
    ours, theirs = (torch.autograd.grad(output.sum(), states) for output in (found, expected))
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).abs().max() < 1e-4
    token = [states[0][:, :, -1:], *states[1:]]
    expected = naive(*token, 0, causal=False, scaling=0.7)
    assert (decode_attention(*token, scaling=0.7) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("slots", "heads", "groups", "learned"),
    [
        *((slots, 9, 3, True) for slots in (1, 63, 64, 200)),
        *((slots, heads, groups, False) for slots in (1, 200) for heads, groups in ((4, 4), (8, 1))),
    ],
)
def test_decode(slots: int, heads: int, groups: int, learned: bool) -> None:
    states = [made(2, heads, 1, 24, seed=1), made(2, groups, slots, 24, seed=2), made(2, groups, slots, 24, seed=3)]
    extra = made(heads, seed=4) if learned else None
    assert (decode_attention(*states, extra) - naive(*states, 0, 0, extra, causal=False)).abs().max() < 1e-5
