"""GGUF export without the engine: what it refuses, which architecture it takes, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lbdsl.artifact.save import save_model
from lbdsl.core.diagnostic import LbdslError
from lbdsl.export.gguf import Gguf, model_fields
from lbdsl.export.gguf_target import target_of
from lbdsl.export.gguf_tensors import OutTensor
from lbdsl.export.gguf_tokenizer import tokenizer_fields
from lbdsl.export.gguf_writer import write_gguf
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.gguf_header import read_gguf_header
from tests.export_cases import DELTA_NETS, GPT_OSS, SIZES, base_subject, changed_model, small_tokenizer
from tests.layer_changes import GONE, NO_MLP, NONE, OWN, Layer, sized, swa
from tests.specs import LEARNED

GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 20}
TWO_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9e5},
}
GEMMA3 = {**GEMMA, "sliding_window_pattern": 2, "rope_parameters": TWO_ROPES}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}


# what: (family, specs, options, code, words of the message)
REFUSED: dict[str, tuple[str, list[Layer], dict[str, Any], str, str]] = {
    "sinks": ("llama", [OWN, swa(8, 4), OWN, OWN], {}, "LB503", "layer 1"),
    "two windows": ("llama", [OWN, swa(8), swa(9), OWN], {}, "LB504", "8 in layer 1; 9 in layer 2"),
    "learned sinks with post-norms": (
        "olmo3",
        [swa(8, LEARNED), OWN, OWN, OWN],
        {"sliding_window": 8},
        "LB520",
        "learned sinks together with norms",
    ),
    "learned sinks with norms of keys": (
        "qwen3",
        [OWN, swa(8, LEARNED), OWN, OWN],
        {},
        "LB520",
        "learned sinks together with",
    ),
    "learned sinks, drop, no window": (
        "mistral",
        [swa(512, LEARNED), NONE, OWN, OWN],
        {"sliding_window": 512},
        "LB521",
        "both learned sinks and layers without attention",
    ),
    "drop and window": ("llama", [OWN, NONE, swa(9), OWN], {}, "LB521", "layer 2"),
    "sizes and window": (
        "llama",
        [sized(1), OWN, swa(9), OWN],
        {},
        "LB521",
        "1 KV head in layer 0; 2 KV heads in layers 1-3",
    ),
    "qwen3 KV heads": ("qwen3", [OWN, sized(1), OWN, OWN], {}, "LB520", "different sizes (1 KV head in layer 1;"),
    "granite widths": (
        "granite",
        [OWN, sized(width=64), OWN, OWN],
        {},
        "LB520",
        "(64 MLP channels in layer 1; 96 MLP channels in layers 0, 2-3), deci, has no place for multipliers",
    ),
    "nothing left": ("llama", [GONE] * 4, {}, "LB524", "no layer"),
    "qwen3 drop": ("qwen3", [OWN, NONE, OWN, OWN], {}, "LB520", "norms of queries and keys"),
    "qwen3 window": (
        "qwen3",
        [OWN, swa(8), OWN, OWN],
        {},
        "LB520",
        "windows together with the norms",
    ),
    "smollm3 drop": ("smollm3", [OWN, NONE, OWN, OWN], {}, "LB520", "rotary"),
    "gemma2 mlp": ("gemma2", [OWN, NO_MLP, OWN, OWN], {**GEMMA, "sliding_window": 600}, "LB520", "deci"),
    "gemma3 retyped": ("gemma3_text", [OWN, swa(20), OWN, OWN], GEMMA3, "LB523", "layer 1"),
    "granite drop": ("granite", [OWN, NONE, OWN, OWN], {}, "LB520", "deci, has no place for multipliers"),
    "olmo3 drop": ("olmo3", [OWN, OWN, NONE, OWN], {"layer_types": ["full_attention"] * 4}, "LB520", "norms after"),
    "exaone4 windows": ("exaone4", [OWN] * 4, {"sliding_window": 20}, "LB520", "windows together with norms after"),
    "exaone4, 64 layers": (
        "exaone4",
        [OWN] * 64,
        {"sliding_window": None, "layer_types": ["full_attention"] * 64, "num_hidden_layers": 64},
        "LB524",
        "64 layers without windows",
    ),
    "partial rotary": ("phi3", [OWN] * 4, {"sliding_window": None, "partial_rotary_factor": 0.5}, "LB523", "50%"),
    "yarn of its own": ("llama", [OWN] * 4, {"rope_parameters": {**YARN, "attention_factor": 1.5}}, "LB523", "YaRN"),
    "yarn with betas": ("llama", [OWN] * 4, {"rope_parameters": {**YARN, "beta_fast": 16.0}}, "LB523", "betas"),
    "llama3 in qwen2": (
        "qwen2",
        [OWN] * 4,
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
        "LB523",
        "llama3 scaling",
    ),
    "activation": ("llama", [OWN] * 4, {"hidden_act": "relu"}, "LB524", "relu"),
    "biases": ("qwen3", [OWN] * 4, {"attention_bias": True}, "LB524", "attention_bias"),
    "heads": ("olmo3", [OWN] * 4, {"hidden_size": 96, "head_dim": 16}, "LB524", "hidden size of 96"),
    "score scale": ("gemma2", [OWN] * 4, {**GEMMA, "query_pre_attn_scalar": 24}, "LB524", "query_pre_attn_scalar"),
    "no cap": ("gemma2", [OWN] * 4, {**GEMMA, "final_logit_softcapping": None}, "LB524", "caps"),
    "a cap": ("gemma3_text", [OWN] * 4, {**GEMMA3, "attn_logit_softcapping": 30.0}, "LB524", "cap"),
    "delta nets in no order": ("qwen3_5_text", [GONE, OWN, OWN, OWN], DELTA_NETS, "LB524", "all but every n-th"),
    "experts of another limit": ("gpt_oss", [OWN] * 4, {**GPT_OSS, "swiglu_limit": 5.0}, "LB524", "swiglu_limit of 5.0"),
    "experts of another alpha": ("gpt_oss", [OWN] * 4, {**GPT_OSS, "swiglu_alpha": 1.5}, "LB524", "swiglu_alpha of 1.5"),
    "yarn that is not rounded": (
        "llama",
        [OWN] * 4,
        {"rope_parameters": {**YARN, "original_max_position_embeddings": 4096, "truncate": False}},
        "LB523",
        "truncate",
    ),
    "delta nets alone": ("qwen3_5_text", [OWN, GONE, OWN, GONE], DELTA_NETS, "LB524", "without a layer of attention"),
    "delta nets of two sizes": (
        "qwen3_5_text",
        [OWN] * 4,
        {**DELTA_NETS, "linear_value_head_dim": 32},
        "LB524",
        "of different sizes",
    ),
    "windows beside delta nets": (
        "qwen3_5_text",
        [OWN, swa(8), OWN, OWN],
        DELTA_NETS,
        "LB520",
        "windows together with gated",
    ),
    "layers that tell the model": (
        "gemma2",
        [OWN] * 46 + [GONE],
        {**GEMMA, "num_hidden_layers": 47, "head_dim": 24, "query_pre_attn_scalar": 24},
        "LB524",
        "46 layers",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what):
    family, specs, options, code, words = REFUSED[what]
    errors = [d for d in Gguf.check(base_subject(family, specs, **options)) if d.is_error]
    assert [d.code for d in errors] == [code], errors
    assert words in errors[0].message
    assert errors[0].help
    assert errors[0].exit_code == 6


CHOSEN = {
    "as it is": ("llama", [OWN] * 4, {}, "llama"),
    "dropped": ("qwen2", [OWN, NONE, OWN, OWN], {}, "deci"),
    "KV heads by layer": ("phi3", [OWN, sized(1), OWN, OWN], {"sliding_window": None}, "deci"),
    "widths by layer": ("qwen2", [OWN, sized(width=64), OWN, GONE], {}, "deci"),
    "smaller, all alike": ("qwen3", [sized(1, 64), GONE, sized(1, 64), sized(1, 64)], {}, "qwen3"),
    "smaller, all alike, windows": ("llama", [sized(1, 64)] * 3 + [sized(1, 64, of=swa(9))], {}, "granite_swa"),
    "blocks": ("qwen3", [GONE, OWN, GONE, OWN], {}, "qwen3"),
    "windows": ("smollm3", [swa(9), OWN, OWN, OWN], {}, "granite_swa"),
    "multipliers": ("granite", [OWN, GONE, OWN, OWN], {}, "granite"),
    "multipliers and windows": ("granite", [swa(9), GONE, OWN, OWN], {}, "granite_swa"),
    "layers that all have rotary embeddings": ("smollm3", [OWN] * 4, {"no_rope_layers": [1] * 4}, "granite_swa"),
    "a window beyond all positions": ("mistral", [OWN] * 4, {"sliding_window": 4096}, "llama"),
    "blocks and windows": ("phi3", [GONE, swa(9), OWN, OWN], {"sliding_window": None}, "granite_swa"),
}


@pytest.mark.parametrize("what", CHOSEN)
def test_it_chooses(what):
    family, specs, options, name = CHOSEN[what]
    found = target_of(base_subject(family, specs, **options))
    assert found.unwrap().graph.name == name


def test_it_says_what_is_written_with_zeros():
    codes = [d.code for d in Gguf.check(base_subject("llama", [NONE, NO_MLP, OWN, OWN]))]
    assert codes == ["LB525", "LB525"]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Any, Path]:
    place = tmp_path_factory.mktemp("gguf")
    changed = changed_model(place, "llama", {0: NONE, 1: NO_MLP, 2: GONE})
    Gguf.write(changed.folder, changed.subject, place)
    return changed, place / "model.gguf"


def test_the_file_says_what_each_layer_has(written):
    import gguf

    changed, path = written
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == "deci"
    assert fields["deci.block_count"] == 3
    assert fields["deci.attention.head_count"] == [4, 4, 4]
    assert fields["deci.attention.head_count_kv"] == [0, 2, 2]
    assert fields["deci.feed_forward_length"] == [96, 32, 96]
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert len(fields["tokenizer.ggml.tokens"]) == SIZES["vocab_size"]
    tensors = {t.name: t for t in reader.tensors}
    assert not [name for name in tensors if name.startswith("blk.0.attn_q")]
    assert not tensors["blk.0.attn_output.weight"].data.any()
    # Layer 3 is the third that is left; llama.cpp turns neighbouring rows, transformers the halves of a head.
    query = changed.model.model.layers[3].self_attn.q_proj.weight.detach().numpy()
    got = tensors["blk.2.attn_q.weight"].data
    for row in range(8):
        assert np.array_equal(got[2 * row], query[row])
        assert np.array_equal(got[2 * row + 1], query[row + 8])
    # Our own reader of GGUF, which trusts nothing, agrees.
    assert {info.name for info in read_gguf_header(path).tensors} == set(tensors)


def test_the_file_says_the_sizes_of_each_layer():
    """Arrays where they differ, else one number: that of the layers, not of the base."""
    keys = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    fields = model_fields(target_of(base_subject("llama", [sized(1), OWN, NONE, sized(4, 64)])).unwrap())
    assert [fields[f"deci.{key}"] for key in keys] == [[4, 4, 0, 4], [1, 2, 0, 4], [96, 96, 96, 64]]
    fields = model_fields(target_of(base_subject("qwen3", [sized(1, 64), GONE, sized(1, 64), sized(1, 64)])).unwrap())
    assert [fields[f"qwen3.{key}"] for key in keys] == [4, 1, 64]


def test_heads_of_values_are_in_llamacpps_order(tmp_path):
    """First those that come first of their heads of keys; the decay as it is used, norms with the 1 that Qwen adds."""
    import gguf

    changed = changed_model(tmp_path, "qwen3_5_text", {}, **DELTA_NETS)
    Gguf.write(changed.folder, changed.subject, tmp_path)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    fields = {key.removeprefix("qwen35."): field.contents() for key, field in reader.fields.items()}
    wanted = {"full_attention_interval": 2, "rope.dimension_count": 8, "attention.head_count_kv": 2, "ssm.inner_size": 64}
    assert {key: fields[key] for key in wanted} == wanted
    layer, tensors = changed.model.model.layers[0], {t.name.removeprefix("blk.0."): t for t in reader.tensors}
    net = {name: value.detach() for name, value in layer.linear_attn.named_parameters()}
    heads = torch.tensor([0, 2, 1, 3])
    values = (16 * heads[:, None] + torch.arange(16)).flatten()
    mixed = torch.cat([torch.arange(64), 64 + values])
    expected = {
        "ssm_a": -net["A_log"][heads].exp(),
        "ssm_dt.bias": net["dt_bias"][heads],
        "ssm_alpha.weight": net["in_proj_a.weight"][heads],
        "attn_gate.weight": net["in_proj_z.weight"][values],
        "attn_qkv.weight": net["in_proj_qkv.weight"][mixed],
        "ssm_conv1d.weight": net["conv1d.weight"][mixed, 0],
        "ssm_out.weight": net["out_proj.weight"][:, values],
        "ssm_norm.weight": net["norm.weight"],
        "post_attention_norm.weight": 1 + layer.post_attention_layernorm.weight.detach(),
    }
    for name, value in expected.items():
        assert np.allclose(tensors[name].data, value.numpy(), rtol=1e-6, atol=0), name


def test_experts_with_biases(tmp_path):
    """gate and up, whose columns stand by turns, apart; matrices as outputs by inputs, biases in float32."""
    import gguf

    changed = changed_model(tmp_path, "gpt_oss", {}, **GPT_OSS)
    save_model(changed.model.to(torch.bfloat16), small_tokenizer(), tmp_path / "half")
    Gguf.write(tmp_path / "half", changed.subject, tmp_path)
    tensors = {t.name.removeprefix("blk.0."): t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    experts = {
        name: value.detach().float().numpy() for name, value in changed.model.model.layers[0].mlp.experts.named_parameters()
    }
    both, bias = experts["gate_up_proj"], experts["gate_up_proj_bias"]
    expected = {
        "ffn_gate_exps.weight": both[..., ::2].swapaxes(1, 2),
        "ffn_up_exps.weight": both[..., 1::2].swapaxes(1, 2),
        "ffn_down_exps.weight": experts["down_proj"].swapaxes(1, 2),
        "ffn_gate_exps.bias": bias[:, ::2],
        "ffn_up_exps.bias": bias[:, 1::2],
        "ffn_down_exps.bias": experts["down_proj_bias"],
    }
    for name, value in expected.items():
        assert np.allclose(tensors[name].data, value, rtol=0, atol=1e-7), name
        assert tensors[name].tensor_type.name == ("F32" if name.endswith("bias") else "F16")


def test_bounds_of_yarn_that_llamacpp_rounds_are_said():
    """gpt-oss's own: 8.09 and 17.40 of 32 frequencies."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 32.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    }
    found = Gguf.check(base_subject("gpt_oss", [OWN] * 4, **{**GPT_OSS, "head_dim": 64, "rope_parameters": rope}))
    assert [(d.code, d.is_error) for d in found] == [("LB523", False)]
    assert "8.09 and 17.40 of 32 frequencies, to 8 and 18" in found[0].message


def test_multipliers_are_written():
    options = {
        "attention_multiplier": 0.25,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 4,
    }
    keys = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
    for layers, name in (([OWN] * 4, "granite"), ([swa(9), OWN, OWN, OWN], "granite_swa")):
        fields = model_fields(target_of(base_subject("granite", layers, **options)).unwrap())
        assert [fields[f"{name}.{key}"] for key in keys] == [0.25, 12.0, 0.5, 4.0]
    fields = model_fields(target_of(base_subject("llama", [swa(9), OWN, OWN, OWN])).unwrap())
    assert [fields.get(f"granite_swa.{key}") for key in keys] == [None, None, None, 1.0]


def test_number_formats(tmp_path):
    """bf16 becomes f16 exactly, but not where a number is too large; vectors are f32; f32 stays."""
    import gguf
    from safetensors.torch import save_file

    torch.manual_seed(0)
    plain = torch.randn(64, 32).to(torch.bfloat16)
    big = plain.clone()
    big[3, 3] = 70_000.0
    save_file(
        {"plain": plain, "big": big, "wide": plain.float() * 1.001, "vector": plain[0].clone()},
        tmp_path / "model.safetensors",
    )
    tensors = [OutTensor(name, info.shape, info) for name, info in read_tensors(tmp_path).items()]
    write_gguf(tmp_path / "x.gguf", {"general.architecture": "llama"}, tensors, tmp_path)
    out = {t.name: t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert {name: t.tensor_type.name for name, t in out.items()} == {
        "plain": "F16",
        "big": "BF16",
        "wide": "F32",
        "vector": "F32",
    }
    assert np.array_equal(out["plain"].data.astype(np.float32), plain.float().numpy())
    assert np.array_equal(out["wide"].data, plain.float().numpy() * np.float32(1.001))
    bits = out["big"].data.view(np.uint16).astype(np.uint32) << 16
    assert np.array_equal(bits.view(np.float32).reshape(64, 32), big.float().numpy())


def test_memory_stays_small(tmp_path):
    """A 64 MiB tensor passes in parts, and so do as many zeros."""
    import tracemalloc

    from safetensors.torch import save_file

    save_file({"x": torch.zeros(16384, 2048, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    tensors = [OutTensor(name, info.shape, info, pair_dim=64) for name, info in read_tensors(tmp_path).items()]
    tensors.append(OutTensor("zeros", (16384, 2048)))
    tracemalloc.start()
    write_gguf(tmp_path / "x.gguf", {"general.architecture": "llama"}, tensors, tmp_path, numbers="F32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90 * 2**20, peak


def tokenizer_folder(place: Path, **changes: Any) -> Path:
    small_tokenizer().save_pretrained(place)
    value = json.loads((place / "tokenizer.json").read_text())
    model = changes.pop("model", {})
    value.update(changes)
    value["model"].update(model)
    (place / "tokenizer.json").write_text(json.dumps(value))
    return place


UNKNOWN_TOKENIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "pre-tokenizer": ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    "pattern": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                ],
            }
        },
        r"\[a-z\]\+ then bytes",
    ),
    "space first": ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "ByteLevel"),
    "ignored merges": ({"model": {"ignore_merges": True}}, "bytes"),
    "normalizer": ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
    "post-processor": ({"post_processor": {"type": "BertProcessing"}}, "BertProcessing"),
    "two tokens before": (
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            }
        },
        "end",
    ),
    "unigram": ({"model": {"type": "Unigram"}}, "Unigram"),
    "no merges": ({"model": {"merges": []}}, "merges"),
    "dropout": ({"model": {"dropout": 0.1}}, "settings"),
}


@pytest.mark.parametrize("what", UNKNOWN_TOKENIZERS)
def test_an_unknown_tokenizer_is_refused_by_name(what, tmp_path):
    changes, words = UNKNOWN_TOKENIZERS[what]
    with pytest.raises(LbdslError, match=words) as refused:
        tokenizer_fields(tokenizer_folder(tmp_path, **changes), 260, {})
    assert [d.code for d in refused.value.diagnostics] == ["LB522"]


PHI3 = {"<unk>": False, "<s>": False, "</s>": True, "<|endoftext|>": False, "<|user|>": True}


def test_spaces_behind_added_tokens_follow_the_name(tmp_path):
    """llama.cpp decides by the model's name, so a name may not say what the tokenizer does not."""

    def name(given: str, strips: dict[str, bool], **more: bool) -> str:
        added = [
            {"id": i, "content": token, "special": True, "rstrip": strip, **more}
            for i, (token, strip) in enumerate(strips.items())
        ]
        return tokenizer_fields(tokenizer_folder(tmp_path, added_tokens=added), 260, {}, given)["general.name"]

    plain = dict.fromkeys(PHI3, False)
    assert name("my-model", plain) == "my-model"
    assert name("llama-like-Phi-3", plain) == "llama-like-Phi_3"
    assert name("Phi-3-mini-drop8", PHI3) == "Phi-3-mini-drop8"
    assert name("small", PHI3) == "small (Phi-3)"
    with pytest.raises(LbdslError, match="spaces after"):
        name("small", {**PHI3, "<|user|>": False})
    with pytest.raises(LbdslError, match="spaces before"):
        name("small", plain, lstrip=True)


def test_more_tokens_than_rows_are_refused(tmp_path):
    with pytest.raises(LbdslError, match="200 rows"):
        tokenizer_fields(tokenizer_folder(tmp_path), 200, {})


def test_special_tokens_and_template(tmp_path):
    folder = tokenizer_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    fields = tokenizer_fields(folder, 262, {"bos_token_id": 3})
    assert fields["tokenizer.ggml.eos_token_id"] == 258
    assert fields["tokenizer.ggml.bos_token_id"] == 3
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.token_type"][257:] == [1, 3, 5, 5, 5]
    assert fields["tokenizer.chat_template"] == "{{ messages }}"
