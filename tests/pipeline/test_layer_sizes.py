"""Layers of one model with other sizes than its neighbours: KV heads and MLP widths are read from each layer."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lbdsl.artifact.save import save_model
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.hybrid.lbdsl_cache import cache_storage_bytes
from lbdsl.model.inspect import inspect_model
from lbdsl.model.runtime import hybrid_classes
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from lbdsl.parts.attention import Attention, Window
from lbdsl.parts.gated_mlp import GatedMLP
from tests.export_cases import small_tokenizer

FULL = LayerSpec(mixer=Attention(heads=4, kv_heads=2, head_dim=8), ffn=GatedMLP(width=48))
LAYERS = (
    FULL,
    FULL.replace(mixer=FULL.mixer.replace(kv_heads=1), ffn=GatedMLP(width=32)),
    FULL.replace(mixer=Attention(heads=4, kv_heads=4, head_dim=8, window=Window(size=5, sink_tokens=1)), ffn=None),
)


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(20).view(1, -1)).logits


def config(**entry):
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    return {**sizes, "num_key_value_heads": 2, "num_hidden_layers": len(LAYERS), "max_position_embeddings": 128, **entry}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    classes = hybrid_classes("llama")
    entry = {"version": 2, "base_model_type": "llama", "layers": [spec.to_json() for spec in LAYERS]}
    return classes.causal_lm(classes.config(**config(lbdsl=entry))).eval()


def test_each_layer_has_its_own_sizes(model):
    layers = model.model.layers
    assert [layer.self_attn.k_proj.out_features for layer in layers] == [16, 8, 32]
    assert [None if layer.mlp is None else layer.mlp.up_proj.out_features for layer in layers] == [48, 32, None]


def test_it_is_counted_saved_and_loaded_as_it_is(model, tmp_path):
    save_model(model, small_tokenizer(), tmp_path / "model")
    (tmp_path / "model" / "lbdsl.json").write_text("{}")
    facts = inspect_model(resolve_source(str(tmp_path / "model"))).unwrap()
    assert facts.layer_specs == LAYERS
    cost = facts.cost
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.weights == sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    # What is one number a model is that of the layer with the most.
    assert (facts.kv_heads, facts.intermediate) == (4, 48)
    loaded = hybrid_classes("llama").causal_lm.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(logits(loaded), logits(model))
    cache = loaded(torch.arange(20).view(1, -1), use_cache=True).past_key_values
    assert cache_storage_bytes(cache) == cost.kv_bytes(20)


def test_generating_token_by_token_gives_what_one_forward_gives(model):
    ids = torch.randint(0, 96, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model(ids).logits
        cache, steps = None, []
        for place in range(ids.shape[1]):
            out = model(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_a_layer_cannot_become_one_that_needs_other_weights():
    """Weights of one name and another shape are not shared as if they were the same."""
    torch.manual_seed(0)
    hybrid = to_hybrid(LlamaForCausalLM(LlamaConfig(**config())))
    with pytest.raises(ValueError, match=r"layer 1 has weights of another shape .*self_attn\.k_proj\.weight"):
        hybrid.set_layer(1, LAYERS[1].to_json())
    assert hybrid.config.lbdsl["layers"] == [FULL.to_json()] * 3
