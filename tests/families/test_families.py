"""Every family: logits, caches, generation and counts of changed models against stock transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lbdsl.families import FAMILIES
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME, cache_storage_bytes
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from tests.family_cases import (
    DELTA_NET,
    FAMILY_NAMES,
    NATIVE,
    UNLIKE,
    VOCAB,
    each_family,
    family_base,
    family_plans,
    native_specs,
)
from tests.hybrid_cases import assert_same_greedy, cache_of, hybrid_of, stock_logits
from tests.layer_changes import GONE, NONE
from tests.specs import window_of

W, N = 5, 3
ALL = ("llama", "gemma3_text", "olmo3")
"""Families that are unlike each other: of the others, the plans that are not among FEW are slow tests."""
FEW = ("drop + swa first", "no full layer", "drop mlp + swa")
CASES = [
    pytest.param(family, plan, marks=[] if family in ALL or (family in UNLIKE and plan in FEW) else pytest.mark.slow)
    for family in FAMILY_NAMES
    for plan in family_plans(family)
]


def cached_logits(model, ids, chunk: int) -> torch.Tensor:
    cache, parts = {}, []
    with torch.no_grad():
        for start in range(0, ids.shape[1], chunk):
            out = model(input_ids=ids[:, start : start + chunk], use_cache=True, **cache)
            cache = {CACHE_NAME: cache_of(out)}
            parts.append(out.logits)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("family", "plan"), CASES)
def test_logits_equal_explicit_masks_and_hooks(family: str, plan: str) -> None:
    base, specs = family_base(family), family_plans(family, W, N)[plan]
    model = hybrid_of(base, specs)
    for length in (W, W + N + 1, NATIVE + 1, 23):
        ids = torch.randint(1, VOCAB, (2, length), generator=torch.Generator().manual_seed(length))
        expected = stock_logits(base, specs, ids)
        with torch.no_grad():
            whole = model(input_ids=ids, use_cache=False).logits
        assert (whole - expected).abs().max() < 1e-4
    # Caches of the longest were those of the others on the way.
    for chunk in (1, 4):
        assert (cached_logits(model, ids, chunk) - expected).abs().max() < 1e-4, chunk


@pytest.mark.parametrize("family", each_family())
def test_plans_really_differ(family: str) -> None:
    """A check on the other tests: weights are such that every plan changes the logits."""
    base = family_base(family)
    ids = torch.randint(1, VOCAB, (1, 23), generator=torch.Generator().manual_seed(1))
    logits = {name: stock_logits(base, specs, ids) for name, specs in family_plans(family, W, N).items()}
    for name, value in logits.items():
        if name != "all kept":
            assert (value - logits["all kept"]).abs().max() > 0.05, name


@pytest.mark.parametrize("family", each_family())
def test_all_kept_is_the_base_bit_for_bit(family: str) -> None:
    base = family_base(family)
    model = to_hybrid(base)
    assert model.config.lbdsl["layers"] == native_specs(family)
    for length in (NATIVE, 31):
        ids = torch.randint(1, VOCAB, (2, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    theirs = base.generate(ids, max_new_tokens=30, do_sample=False, output_logits=True, return_dict_in_generate=True)
    ours = model.generate(ids, max_new_tokens=30, do_sample=False, output_logits=True, return_dict_in_generate=True)
    # A ring holds its tokens in another order than a list, and sums round.
    assert torch.equal(ours.sequences, theirs.sequences)
    assert (torch.stack(ours.logits) - torch.stack(theirs.logits)).abs().max() < 1e-4


def held(spec: dict, tokens: int) -> float:
    if spec["mixer"] is None or spec["mixer"]["kind"] != "attention":
        return 0
    window = window_of(spec)
    if window is None:
        return tokens
    # Of two KV heads one may be full.
    full = window.get("full_heads", 0) / 2
    return full * tokens + (1 - full) * min(tokens, window["size"] + window["sink_tokens"])


@pytest.mark.parametrize(("family", "plan"), CASES)
def test_storage_and_generation(family: str, plan: str) -> None:
    """A left-padded batch far past the windows: each row as alone, the cache's storage as the formula."""
    specs = family_plans(family, W, N)[plan]
    model = hybrid_of(family_base(family), specs)
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_key_value_heads * head_dim * 4
    prompts = [torch.randint(1, VOCAB, (length,), generator=torch.Generator().manual_seed(length)) for length in (3, 12)]
    ids = torch.stack([torch.cat([torch.zeros(12 - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.cat([torch.zeros(12 - len(p)), torch.ones(len(p))]) for p in prompts]).long()
    options = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    out = model.generate(ids, attention_mask=mask, **options)
    # A gated delta net's state and the last inputs of its convolution, by the definition.
    states = sum(4 * (4 * 8 * 16 + 3 * (2 * 2 * 8 + 4 * 16)) for spec in specs if spec["mixer"] == DELTA_NET)
    assert cache_storage_bytes(cache_of(out)) == 2 * (per_token * sum(held(spec, 23) for spec in specs) + states)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt.unsqueeze(0), **options)
        assert_same_greedy(out.sequences[row, 12:], alone.sequences[0, len(prompt) :], torch.stack(alone.logits)[:, 0])
        with torch.no_grad():
            whole = model(input_ids=alone.sequences, use_cache=False).logits[:, len(prompt) - 1 : -1]
        # Of a gated delta net a step is another sum than a chunk.
        near = 1e-3 if states else 1e-4
        assert (torch.stack(alone.logits, dim=1) - whole).abs().max() < near


@pytest.mark.parametrize("family", each_family())
def test_headers_tell_what_the_model_is(family: str, tmp_path: Path) -> None:
    base = family_base(family)
    base.save_pretrained(tmp_path)
    facts = inspect_model(resolve_source(str(tmp_path))).unwrap()
    assert facts.params == sum(p.numel() for p in base.parameters())
    own = native_specs(family)
    assert [spec.to_json() for spec in facts.layer_specs] == own
    model = to_hybrid(base)
    for layer in range(4):
        expected = [LayerSpec.model_validate(change.of(own[layer])) for change in (NONE, GONE)]
        for spec in (facts.layer_specs[layer], *expected):
            model.set_layer(layer, spec.to_json())
            parameters = dict(model.model.layers[layer].named_parameters())
            assert {name: tuple(value.shape) for name, value in parameters.items()} == {
                tensor.name: tensor.shape for tensor in spec.tensors(facts)
            }
    assert sum(p.numel() for p in model.parameters()) == facts.other_params


@pytest.mark.parametrize("family", each_family())
def test_fields_that_a_config_may_leave_out(family: str, tmp_path: Path) -> None:
    """Sizes and windows that transformers fills in are the ones that are read."""
    from transformers import AutoConfig

    base = family_base(family)
    base.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for field in ("layer_types", "no_rope_layers", "tie_word_embeddings", "attention_bias", "mlp_bias"):
        content.pop(field, None)
    path.write_text(json.dumps(content))
    loaded = AutoConfig.from_pretrained(tmp_path)
    from lbdsl.model.layout import layout_of

    layout = layout_of(content)
    from lbdsl.model.hybrid.lbdsl_layers import native_layers

    assert [spec.to_json() for spec in layout.specs] == native_layers(loaded)
    assert layout.tied == loaded.tie_word_embeddings
    assert layout.sizes.kv_heads == loaded.num_key_value_heads
    bare = {
        "model_type": family,
        "architectures": [FAMILIES[family].architecture],
        "vocab_size": 64,
        "hidden_size": 128,
        "num_attention_heads": 32,
        "num_hidden_layers": 8,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
    }
    path.write_text(json.dumps(bare))
    loaded = AutoConfig.from_pretrained(tmp_path)
    layout = layout_of(bare)
    assert [spec.to_json() for spec in layout.specs] == native_layers(loaded)
    assert layout.tied == loaded.tie_word_embeddings
    assert layout.sizes.kv_heads == loaded.num_key_value_heads
    assert layout.sizes.head_dim == (getattr(loaded, "head_dim", None) or 4)
