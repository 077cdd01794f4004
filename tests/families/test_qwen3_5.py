"""Qwen 3.5 as it is on the hub, three gated delta nets to one attention: caches, beams, packed texts, copies."""

from __future__ import annotations

import copy
import pickle
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lbdsl.layer.spec import LayerSpec
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load import load_base
from lbdsl.model.source import resolve_source
from lbdsl.parts import Window
from tests.family_cases import VOCAB, family_base
from tests.hybrid_cases import cache_of, hybrid_of, stock_logits

pytestmark = pytest.mark.torch
TYPES = (["linear_attention"] * 3 + ["full_attention"]) * 2
IDS = torch.randint(1, VOCAB, (2, 90), generator=torch.Generator().manual_seed(0))
"""More tokens than a chunk of the recurrence has."""


@cache
def base_of():
    return family_base("qwen3_5_text", num_hidden_layers=len(TYPES), layer_types=TYPES, initializer_range=0.1)


def plans() -> dict[str, list[dict]]:
    from lbdsl.model.surgery import to_hybrid

    own = [LayerSpec.model_validate(spec) for spec in to_hybrid(copy.deepcopy(base_of())).config.lbdsl["layers"]]
    windowed = own[7].replace(mixer=own[7].mixer.replace(window=Window(size=20, sink_tokens=2)))
    found = {
        "as it is": own,
        "one gone": [own[0], own[1].replace(mixer=None), *own[2:7], windowed],
        "blocks gone": [own[0].replace(mixer=None, ffn=None), own[1], own[2].replace(ffn=None), *own[3:]],
    }
    return {name: [spec.to_json() for spec in specs] for name, specs in found.items()}


@pytest.mark.parametrize("plan", ["as it is", "one gone", "blocks gone"])
def test_one_forward_chunks_and_steps_give_what_the_stock_model_gives(plan: str) -> None:
    specs = plans()[plan]
    model, expected = hybrid_of(base_of(), specs), stock_logits(base_of(), specs, IDS)
    with torch.no_grad():
        assert (model(input_ids=IDS, use_cache=False).logits - expected).abs().max() < 1e-3
        for steps in ([1] * 90, [70, 1, 2, 17], [2, 88]):
            cached, found = {}, []
            for part in IDS.split(steps, dim=1):
                out = model(input_ids=part, use_cache=True, **cached)
                cached = {CACHE_NAME: cache_of(out)}
                found.append(out.logits)
            assert (torch.cat(found, 1) - expected).abs().max() < 1e-3, steps
    with pytest.raises(ValueError, match="gated delta net"):
        cached[CACHE_NAME].crop(-1)


def test_padding_and_beams_are_the_stock_models() -> None:
    model, base = hybrid_of(base_of(), plans()["as it is"]), base_of()
    ids = IDS[:, :30].clone()
    mask = torch.ones_like(ids)
    mask[0, :11] = ids[0, :11] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 3):
        assert torch.equal(model.generate(ids, num_beams=beams, **options), base.generate(ids, num_beams=beams, **options))


def test_packed_texts_see_themselves_alone() -> None:
    model = hybrid_of(base_of(), plans()["one gone"])
    places = torch.cat([torch.arange(70), torch.arange(20)]).unsqueeze(0)
    with torch.no_grad():
        packed = model(input_ids=IDS[:1], position_ids=places, use_cache=False).logits
        alone = [model(input_ids=part, use_cache=False).logits for part in IDS[:1].split([70, 20], dim=1)]
        together = model(input_ids=IDS[:1], use_cache=False).logits
    assert (packed - torch.cat(alone, 1)).abs().max() < 1e-4
    assert (packed - together).abs().max() > 0.01


def test_copies_and_gradients() -> None:
    model = hybrid_of(base_of(), plans()["one gone"])
    expected = model(input_ids=IDS, use_cache=False).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(input_ids=IDS, use_cache=False).logits, expected)
    expected.square().mean().backward()
    delta = model.model.layers[0].linear_attn
    grads = {name: parameter.grad.clone() for name, parameter in delta.named_parameters()}
    assert all(bool(grad.abs().sum() > 0) for grad in grads.values())
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()(input_ids=IDS, use_cache=False).logits.square().mean().backward()
    for name, parameter in delta.named_parameters():
        assert torch.allclose(parameter.grad, grads[name], rtol=1e-3, atol=1e-5), name


def test_the_language_model_beside_an_image_model_is_read(tmp_path: Path) -> None:
    """With the names of the hub's files, and the layers that predict further tokens."""
    import transformers

    text = {**base_of().config.to_dict(), "model_type": "qwen3_5_text"}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}
    torch.manual_seed(0)
    whole = transformers.Qwen3_5ForConditionalGeneration(
        transformers.Qwen3_5Config(text_config=text, vision_config={**vision, "num_position_embeddings": 16})
    ).eval()
    whole.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert all(name.startswith(("model.language_model.", "model.visual.", "lm_head.")) for name in tensors)
    save_file({**tensors, "mtp.fc.weight": torch.zeros(32, 64)}, file, metadata={"format": "pt"})
    found = inspect_model(resolve_source(str(tmp_path)))
    facts, (note,) = found.unwrap(), found.diagnostics
    assert note.code == "LB422"
    assert re.search(r"without the \d+ tensors of model\.visual \(\d+\), mtp \(1\)$", note.message), note.message
    assert [spec.mixer.kind for spec in facts.layer_specs] == [
        {"linear_attention": "gated_delta_net", "full_attention": "attention"}[kind] for kind in TYPES
    ]
    assert facts.params == sum(p.numel() for p in whole.model.language_model.parameters()) + whole.lm_head.weight.numel()
    loaded = load_base(resolve_source(str(tmp_path)))
    with torch.no_grad():
        expected = whole(input_ids=IDS).logits
        assert torch.allclose(loaded(input_ids=IDS, use_cache=False).logits, expected, atol=1e-4)
