"""Learned sinks in every family against a naive softmax with one more term in its denominator, in float64."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from lbdsl.heal.loop import always_trained
from lbdsl.model.hybrid import lbdsl_redirect as redirect
from lbdsl.model.surgery import to_hybrid
from tests.family_cases import FAMILY_NAMES, VOCAB, each_family, family_base
from tests.hybrid_cases import explicit_mask
from tests.layer_changes import OWN, swa
from tests.specs import LEARNED

W = 5
PLAN = [swa(W, LEARNED), OWN, swa(W, LEARNED), OWN]


FAMILIES = [name for name in FAMILY_NAMES if name not in ("gemma2", "gpt_oss")]
"""Gemma 2 caps its scores: `swa(sinks=learned)` is refused there; gpt-oss has sinks by itself."""


def naive(module, query, key, value, attention_mask, scaling, dropout=0.0, **_kwargs):
    """An attention implementation of transformers."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.double().repeat_interleave(groups, 1) for states in (key, value))
    scores = query.double() @ key.mT * scaling
    sinks = module.sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    scores = scores.masked_fill(attention_mask < 0, -torch.inf)
    weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    return (weights @ value).transpose(1, 2).to(query.dtype), None


def with_sinks(base):
    """The base in the hybrid runtime with the plan, and the specifications; layer 2's second head has no sink."""
    model = to_hybrid(base)
    for layer, change in enumerate(PLAN):
        spec = change.of(model.config.lbdsl["layers"][layer])
        made = {}
        if change != OWN:
            made["self_attn.sinks"] = torch.randn(4, generator=torch.Generator().manual_seed(layer)) * 2
            made["self_attn.sinks"][1] = -3e4 if layer == 2 else 1.0
        model.set_layer(layer, spec, made)
    return model, model.config.lbdsl["layers"]


def test_two_copies_of_the_runtime_in_one_process(tmp_path: Path) -> None:
    """As two artifacts with remote code make them: the last one registers its attention over the first one's."""
    model, _ = with_sinks(family_base("llama"))
    ids = torch.randint(1, VOCAB, (1, 23), generator=torch.Generator().manual_seed(3))
    logits = model(input_ids=ids).logits
    spec = importlib.util.spec_from_file_location("another_copy", redirect.__file__)
    another = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(another)
    assert another.Redirected is not redirect.Redirected
    assert torch.equal(model(input_ids=ids).logits, logits)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(copy.deepcopy(again)(input_ids=ids).logits, logits)


def test_sinks_that_the_base_has_learn_as_other_weights_do() -> None:
    """New ones begin at what fits best, and have to move by whole numbers."""
    model, _ = with_sinks(family_base("llama"))
    new = always_trained(model)
    assert new == {f"model.layers.{layer}.self_attn.sinks": 300.0 for layer in (0, 2)}
    own = always_trained(to_hybrid(family_base("gpt_oss")))
    assert own == {f"model.layers.{layer}.self_attn.sinks": 1.0 for layer in range(4)}


@pytest.mark.parametrize("family", each_family(FAMILIES))
def test_logits_gradients_and_generation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = family_base(family)
    model, specs = with_sinks(base)
    ids = torch.randint(1, VOCAB, (2, 23), generator=torch.Generator().manual_seed(3))
    found = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        logits = model(input_ids=ids, use_cache=False).logits
        sinks = model.model.layers[2].self_attn.sinks
        (gradient,) = torch.autograd.grad(logits.square().mean(), sinks)
        tokens = model.generate(ids[:, :9], max_new_tokens=14, do_sample=False, pad_token_id=0)
        with torch.no_grad():
            again = model(input_ids=tokens, use_cache=False).logits[:, 8:-1].argmax(-1)
        found[implementation] = logits.detach(), gradient
        assert torch.equal(again, tokens[:, 9:])
    attention = type(base.model.layers[0].self_attn)
    monkeypatch.setattr(sys.modules[attention.__module__], "eager_attention_forward", naive)
    base.set_attn_implementation("eager")
    real = torch.ones_like(ids, dtype=torch.bool)
    for own, changed, spec in zip(base.model.layers, model.model.layers, specs, strict=True):
        if spec["mixer"]["kind"] != "attention":
            continue
        sinks = getattr(changed.self_attn, "sinks", None)
        own.self_attn.sinks = torch.nn.Parameter(torch.full((4,), -torch.inf) if sinks is None else sinks.detach().clone())
        mask = explicit_mask(real, spec)
        own.self_attn.register_forward_pre_hook(
            lambda _m, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
        )
    expected = base(input_ids=ids, use_cache=False).logits
    (gradient,) = torch.autograd.grad(expected.square().mean(), base.model.layers[2].self_attn.sinks)
    for logits, own in found.values():
        assert (logits - expected).abs().max() < 1e-4
        assert torch.allclose(own, gradient, atol=1e-5, rtol=1e-3)
        assert own[1] == 0
        assert own.abs().max() > 1e-5
