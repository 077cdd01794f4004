"""Facts without weights agree exactly with the loaded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.cost import LayerCost
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.inspect import facts_summary, inspect_model, normal_dtype
from lbdsl.model.layout import layout_of
from lbdsl.model.source import is_artifact, resolve_source
from lbdsl.parts.attention import Attention, Window
from lbdsl.parts.gated_mlp import GatedMLP
from tests.model_cases import edit_json, save_gguf, save_llama, tiny_llama
from tests.plan_cases import token_bytes

pytestmark = pytest.mark.torch  # to save models


def counts(model):
    """Parameters by sub-block, counted from the torch model itself."""
    layers = model.model.layers
    attention = tuple(
        sum(p.numel() for m in (layer.self_attn, layer.input_layernorm) for p in m.parameters()) for layer in layers
    )
    mlp = tuple(
        sum(p.numel() for m in (layer.mlp, layer.post_attention_layernorm) for p in m.parameters()) for layer in layers
    )
    return attention, mlp, sum(p.numel() for p in model.parameters()) - sum(attention) - sum(mlp)


def params_of(facts):
    """The same from the facts: what a layer costs with one of its sub-blocks alone."""
    attention = tuple(LayerCost.of(spec.replace(ffn=None), facts).params for spec in facts.layer_specs)
    mlp = tuple(LayerCost.of(spec.replace(mixer=None), facts).params for spec in facts.layer_specs)
    return attention, mlp, facts.other_params


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "bfloat16"},
        {"shards": True},
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": True, "shards": True, "dtype": "bfloat16"},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16},
        {"num_key_value_heads": 4, "dtype": "float16"},
        {"num_hidden_layers": 1},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
)
def test_facts_agree_with_the_loaded_model(tmp_path, options):
    model = save_llama(tmp_path, **options)
    facts = inspect_model(resolve_source(str(tmp_path))).unwrap()
    config = model.config
    assert params_of(facts) == counts(model)
    assert facts.params == sum(p.numel() for p in model.parameters())
    assert (facts.family, facts.architecture) == ("llama", "LlamaForCausalLM")
    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.head_dim) == (
        config.num_hidden_layers,
        32,
        4,
        config.num_key_value_heads,
        config.head_dim,
    )
    assert (facts.intermediate, facts.vocab, facts.positions) == (48, 96, 128)
    assert facts.tied is config.tie_word_embeddings
    assert facts.dtype == options.get("dtype", "float32")
    assert [spec.mixer.window for spec in facts.layer_specs] == [None] * facts.layers
    modules = dict(model.named_modules())
    assert len(facts.modules) == 7 * facts.layers
    assert all(hasattr(modules[name], "weight") for name in facts.modules)


def test_dtype_is_the_argument_else_the_configuration_else_the_tensors(tmp_path):
    save_llama(tmp_path, dtype="bfloat16")
    source = resolve_source(str(tmp_path))
    assert inspect_model(source, "fp32").unwrap().dtype == "float32"
    edit_json(tmp_path / "config.json", dtype=None, torch_dtype="float16")
    assert inspect_model(source).unwrap().dtype == "float16"
    edit_json(tmp_path / "config.json", torch_dtype=None)
    assert inspect_model(source).unwrap().dtype == "bfloat16"


def test_unknown_dtype_is_a_coded_error():
    assert normal_dtype("torch.bfloat16") == "bfloat16"
    with pytest.raises(LbdslError) as caught:
        normal_dtype("bflaot16")
    (found,) = caught.value.diagnostics
    assert found.code == "LB415"
    assert "bfloat16" in found.help[0]


def test_old_buffers_and_a_repeated_tied_head_are_not_counted(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    model = save_llama(tmp_path, tie_word_embeddings=True)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    source = resolve_source(str(tmp_path))
    assert inspect_model(source).unwrap().params == sum(p.numel() for p in model.parameters())

    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    found = inspect_model(source)
    assert found.value is None
    assert [d.code for d in found.diagnostics] == ["LB404"]


def test_gguf_counts_are_of_the_dequantized_model(tmp_path):
    for tied in (False, True):
        model = tiny_llama(tie_word_embeddings=tied)
        save_gguf(tmp_path / f"tiny-{tied}.Q4_1.gguf", model, tokens=96)
        source = resolve_source(str(tmp_path / f"tiny-{tied}.Q4_1.gguf"))
        assert source.short_name == f"tiny-{tied}"
        facts = inspect_model(source).unwrap()
        assert params_of(facts) == counts(model)
        assert facts.tied is tied
        assert facts.dtype == "bfloat16"


def test_an_artifact_is_counted_as_it_is(tmp_path):
    from safetensors.torch import load_file, save_file

    model = save_llama(tmp_path)
    attention, mlp, other = counts(model)
    path = tmp_path / "model.safetensors"
    gone = (
        "model.layers.1.self_attn.",
        "model.layers.1.input_layernorm.",
        "model.layers.2.mlp.",
        "model.layers.2.post_attention_layernorm.",
    )
    save_file({k: v for k, v in load_file(path).items() if not k.startswith(gone)}, path, metadata={"format": "pt"})
    base = inspect_model(resolve_source(str(tmp_path)))
    assert [d.code for d in base.diagnostics] == ["LB409"]
    native = LayerSpec(mixer=Attention(heads=4, kv_heads=2, head_dim=8), ffn=GatedMLP(width=48))
    window = Window(size=16, sink_tokens=4)
    layers = [
        native.replace(mixer=native.mixer.replace(window=window)),
        native.replace(mixer=None),
        native.replace(ffn=None),
    ]
    specs = [layer.to_json() for layer in layers]
    edit_json(
        tmp_path / "config.json",
        model_type="lbdsl_llama",
        architectures=["LbdslLlamaForCausalLM"],
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        sliding_window=16,
        lbdsl={"version": 2, "base_model_type": "llama", "layers": specs},
    )
    source = resolve_source(str(tmp_path))
    assert not is_artifact(source)
    (tmp_path / "lbdsl.json").write_text("{}")
    assert is_artifact(source)
    facts = inspect_model(source).unwrap()
    assert (facts.family, facts.architecture) == ("llama", "LbdslLlamaForCausalLM")
    assert params_of(facts) == ((attention[0], 0, attention[2]), (mlp[0], mlp[1], 0), other)
    assert list(facts.layer_specs) == layers
    assert not any(name.startswith(("model.layers.1.self_attn", "model.layers.2.mlp")) for name in facts.modules)
    summary = facts_summary(facts, source)
    assert summary["artifact"] is True
    assert summary["kv_bytes_per_token"] == 2 * token_bytes(facts)
    assert summary["dropped"] == {"attention": [1], "mlp": [2]}

    edit_json(tmp_path / "config.json", lbdsl={"version": 2, "layers": specs[:2]})
    assert [d.code for d in inspect_model(source).diagnostics] == ["LB402"]


def test_a_tensor_that_no_part_has_is_refused(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    save_llama(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.feature_map.weight"] = torch.ones(5, 7)
    save_file(tensors, path, metadata={"format": "pt"})
    specs = [spec.to_json() for spec in inspect_model_of(tmp_path)]
    edit_json(
        tmp_path / "config.json",
        model_type="lbdsl_llama",
        lbdsl={"version": 2, "base_model_type": "llama", "layers": specs},
    )
    found = inspect_model(resolve_source(str(tmp_path)))
    assert [d.code for d in found.diagnostics] == ["LB409"]
    assert "feature_map" in found.diagnostics[0].message


def inspect_model_of(folder: Path) -> tuple[LayerSpec, ...]:
    return layout_of(json.loads((folder / "config.json").read_text())).specs


def test_summary_has_the_promised_fields_and_is_json(tmp_path):
    save_llama(tmp_path, dtype="bfloat16")
    source = resolve_source(str(tmp_path))
    facts = inspect_model(source).unwrap()
    summary = json.loads(json.dumps(facts_summary(facts, source)))
    assert {"format_version", "family", "layers", "params", "kv_bytes_per_token", "modules"} <= set(summary)
    assert summary["kv_bytes_per_token"] == 3 * 2 * 2 * 8 * 2
    assert summary["weight_bytes"] == 2 * facts.params


def test_inspection_imports_no_torch(tmp_path):
    save_llama(tmp_path)
    save_gguf(tmp_path / "x.gguf", tiny_llama())
    code = (
        "import sys; from lbdsl.model.inspect import inspect_model; from lbdsl.model.source import resolve_source\n"
        "from lbdsl.model.digest import model_digest\n"
        "for name in sys.argv[1:]: inspect_model(resolve_source(name)).unwrap()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / "x.gguf")], check=True)
