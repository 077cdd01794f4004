"""Windows in bands against a naive softmax in float64: outputs, gradients, odd sizes, and within a model."""

from __future__ import annotations

import pytest
import torch

from lbdsl.model.hybrid.lbdsl_band_attention import BLOCK, Band, attend_in_bands, worth_bands
from tests.family_cases import family_base, native_specs
from tests.hybrid_cases import cached_logits, hybrid_of, stock_logits, swa, tiny_base
from tests.layer_changes import swa as specs_swa
from tests.specs import LEARNED

SIZE = 8


def naive(query, key, value, band: Band, sinks: torch.Tensor | None = None) -> torch.Tensor:
    """[B, N, H, D]."""
    tokens, groups = query.shape[2], query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    rows = [[k <= q and (k > q - band.window or k < band.sinks) for k in range(tokens)] for q in range(tokens)]
    scores = (query @ key.mT * SIZE**-0.5).masked_fill(~torch.tensor(rows), -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(len(query), -1, tokens, 1)], dim=-1)
    return (scores.softmax(-1)[..., :tokens] @ value).transpose(1, 2)


@pytest.mark.parametrize("band", [Band(1), Band(16), Band(16, 3), Band(129, 1), Band(200), Band(128, 4)])
@pytest.mark.parametrize(
    ("learned", "beyond", "heads", "groups"), [(False, 0, 2, 2), (True, 77, 2, 2), (True, 0, 6, 2), (False, 77, 6, 2)]
)
def test_outputs_and_gradients(band: Band, learned: bool, beyond: int, heads: int, groups: int) -> None:
    tokens = band.start + BLOCK + beyond
    assert worth_bands(tokens, band.window, band.sinks)
    made = torch.Generator().manual_seed(tokens)
    shapes = [(2, heads, tokens, SIZE), *[(2, groups, tokens, SIZE)] * 2, *[(heads,)] * learned]
    states = [torch.randn(shape, generator=made, dtype=torch.float64, requires_grad=True) for shape in shapes]
    sinks = states[3:]
    expected, found = naive(*states[:3], band, *sinks), attend_in_bands(*states[:3], band, SIZE**-0.5, *sinks)
    assert torch.allclose(found, expected, atol=1e-10)
    weight = torch.randn(expected.shape, generator=made, dtype=torch.float64)
    gradients = (torch.autograd.grad((output * weight).sum(), states) for output in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # A norm in fp32 makes queries and keys of another dtype than values.
        mixed = attend_in_bands(*(state.float() for state in states[:2]), states[2].bfloat16(), band, SIZE**-0.5, *sinks)
    assert (mixed - expected).abs().max() < 0.05
    with torch.no_grad():
        rough = attend_in_bands(*(state.bfloat16() for state in states[:3]), band, SIZE**-0.5, *sinks)
    assert (rough - expected).abs().max() < 0.05


@pytest.mark.parametrize("sinks", [0, 3])
def test_a_model_reads_a_long_text_in_bands_and_goes_on_from_its_cache(sinks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from lbdsl.model.hybrid import lbdsl_window_attention

    used = []
    own = lbdsl_window_attention.attend_in_bands
    monkeypatch.setattr(lbdsl_window_attention, "attend_in_bands", lambda *args: used.append(args[3]) or own(*args))
    base, specs = tiny_base(), [swa(20, sinks), swa(130, sinks)] * 2
    model = hybrid_of(base, specs)
    ids = torch.randint(0, 101, (2, 700), generator=torch.Generator().manual_seed(1))
    expected = stock_logits(base, specs, ids)
    for chunk in (700, 690):
        used.clear()
        assert (cached_logits(model, ids, chunk) - expected).abs().max() < 1e-4
        assert used == [Band(20, sinks), Band(130, sinks)] * 2
    # A row with padding, and sequences that are packed, have masks.
    used.clear()
    mask = torch.ones_like(ids)
    mask[0, :30] = 0
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
        model(input_ids=ids, position_ids=torch.arange(700)[None] % 350, use_cache=False)
    assert not used


def test_learned_sinks_are_seen_in_bands() -> None:
    model = hybrid_of(tiny_base(), [swa(20, LEARNED), swa(130, LEARNED)] * 2)
    for layer in model.model.layers:
        with torch.no_grad():
            layer.self_attn.sinks.copy_(torch.tensor([0.5, -1.0, 2.0, 3.0]))
    ids = torch.randint(0, 101, (2, 700), generator=torch.Generator().manual_seed(2))
    in_bands = cached_logits(model, ids, 700)
    model.set_attn_implementation("eager")
    assert (cached_logits(model, ids, 700) - in_bands).abs().max() < 1e-4
    for layer in model.model.layers:
        with torch.no_grad():
            layer.self_attn.sinks.fill_(-30.0)
    assert (cached_logits(model, ids, 700) - in_bands).abs().max() > 0.01


def test_a_cap_on_scores_is_kept_where_sdpa_is_forced() -> None:
    """Neither bands nor SDPA have one: such scores are computed eagerly, whatever the configuration says."""
    base = family_base("gemma2").double()
    own = native_specs("gemma2")[1]
    specs = [specs_swa(window, sinks).of(own) for window, sinks in ((9, 0), (20, 3), (9, 0), (20, 3))]
    model = hybrid_of(base, specs)
    ids = torch.randint(0, 101, (1, 300), generator=torch.Generator().manual_seed(1))
    assert worth_bands(300, 20, 3)
    expected = stock_logits(base, specs, ids)
    base.config.attn_logit_softcapping = None
    for layer in base.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert (stock_logits(base, specs, ids) - expected).abs().max() > 0.1
    # Of one length in bands, then from a cache; and a text within the window. (Eager attention has its softmax in float32.)
    for implementation in ("eager", "sdpa"):
        model.config._attn_implementation = implementation
        for chunk in (300, 299, 250):
            assert (cached_logits(model, ids, chunk) - expected).abs().max() < 1e-5, (implementation, chunk)
        assert (cached_logits(model, ids[:, :7], 7) - expected[:, :7]).abs().max() < 1e-5
    mask = torch.ones_like(ids)
    mask[0, :30] = 0
    padded = [model(input_ids=ids, attention_mask=mask).logits for model.config._attn_implementation in ("eager", "sdpa")]
    assert (padded[0] - padded[1]).abs().max() < 1e-5
