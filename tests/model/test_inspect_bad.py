"""Bad and hostile models: each ends in a coded diagnostic, never in a traceback."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.inspect import inspect_model
from lbdsl.model.safetensors_header import read_safetensors_header
from lbdsl.model.source import ModelSource, resolve_source
from tests.model_cases import edit_json, save_gguf, save_llama, tiny_llama, write_safetensors

pytestmark = pytest.mark.torch  # to save models

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def found(folder):
    """The diagnostics of inspecting a folder that must be refused."""
    result = inspect_model(ModelSource(str(folder), folder, None, None, "x"))
    assert result.value is None
    assert result.diagnostics
    assert all(d.is_error for d in result.diagnostics)
    return result.diagnostics


def artifact(layer: dict, version: int = 2) -> dict:
    """A configuration of three such layers."""
    return {"lbdsl": {"version": version, "layers": [layer] * 3}, "model_type": "lbdsl_llama"}


@pytest.fixture
def folder(tmp_path):
    save_llama(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "LB402"),
        ("{", "LB402"),
        ("[1]", "LB402"),
        ('"x"', "LB402"),
        ("null", "LB402"),
        ("{}", "LB403"),
        ('{"a": 1, "a": 2}', "LB402"),
        ("[" * 100_000, "LB402"),
        ('{"a": ' + "9" * 5000 + "}", "LB402"),
        ('{"model_type": "bert"}', "LB403"),
        ('{"model_type": 7}', "LB403"),
        ('{"model_type": ["llama"]}', "LB403"),
        ('{"model_type": "llama"}', "LB402"),
    ],
)
def test_bad_config_text(folder, text, code):
    (folder / "config.json").write_text(text)
    assert [d.code for d in found(folder)] == [code]


def test_config_that_is_not_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{}")
    assert found(folder)[0].code == "LB402"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"num_hidden_layers": 0}, "LB402", "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "LB402", "num_hidden_layers"),
        ({"hidden_size": True}, "LB402", "hidden_size"),
        ({"hidden_size": 32.0}, "LB402", "hidden_size"),
        ({"vocab_size": "96"}, "LB402", "vocab_size"),
        ({"num_attention_heads": 5}, "LB402", "multiple"),
        ({"num_key_value_heads": 3}, "LB402", "multiple"),
        ({"head_dim": 7}, "LB402", "odd"),
        ({"tie_word_embeddings": "yes"}, "LB402", "tie_word_embeddings"),
        ({"architectures": "LlamaForCausalLM"}, "LB402", "architectures"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LB404", "LlamaForSequenceClassification"),
        ({"sliding_window": 64}, "LB404", "sliding_window"),
        ({"layer_types": ["sliding_attention", "full_attention", "full_attention"]}, "LB404", "layer_types"),
        ({"per_layer_config": {"0": {}}}, "LB404", "per_layer_config"),
        ({"quantization_config": {"quant_method": "gptq"}}, "LB404", "quantized"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "LB404", "dynamic"),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope"}}, "LB404", "longrope"),
        ({"rope_scaling": [1]}, "LB402", "rope_scaling"),
        ({"dtype": "float64"}, "LB404", "float64"),
        ({"rms_norm_eps": "x"}, "LB402", "rms_norm_eps"),
        ({"rope_theta": [1]}, "LB402", "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "LB402", "rope_theta"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "LB402", "factor"),
        ({"rope_parameters": {"rope_type": "linear"}}, "LB402", "no factor"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}},
            "LB402",
            "high_freq_factor",
        ),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": True}}, "LB402", "factor"),
        ({"final_logit_softcapping": 0.0}, "LB402", "final_logit_softcapping"),
        ({"no_rope_layers": [1]}, "LB402", "no_rope_layers"),
        ({"no_rope_layer_interval": 0}, "LB402", "no_rope_layer_interval"),
        ({"num_labels": 10**9}, "LB402", "num_labels"),
        ({"num_labels": "2"}, "LB402", "num_labels"),
        ({"_attn_implementation": "somebody/kernel"}, "LB404", "somebody/kernel"),
        ({"_attn_implementation_internal": {"": "flash_attention_2"}}, "LB404", "_attn_implementation_internal"),
        ({"num_hidden_layers": 4}, "LB409", "missing"),
        ({"num_hidden_layers": 2}, "LB409", "not part of the model"),
        ({"intermediate_size": 64}, "LB409", "[48, 32], expected [64, 32]"),
        ({"attention_bias": True}, "LB409", "q_proj.bias"),
        (artifact({"attn": 1}), "LB402", "lbdsl.layers[0]"),
        (artifact({"mixer": {"kind": "attention", "heads": 4}, "ffn": None}), "LB402", "kv_heads"),
        (artifact({"mixer": None, "ffn": {"kind": "half_mlp"}}), "LB402", "half_mlp"),
        (artifact({"mixer": None, "ffn": None, "norms": None}), "LB402", "norms"),
        (artifact({"mixer": None, "ffn": None}, version=3), "LB403", "configuration is 3"),
        ({"model_type": "lbdsl_gpt"}, "LB403", "lbdsl_gpt"),
    ],
)
def test_bad_config_values(folder, changes, code, said):
    edit_json(folder / "config.json", **changes)
    first = found(folder)[0]
    assert first.code == code
    assert said in first.message


def test_layer_types_that_are_all_full_are_fine(folder):
    edit_json(folder / "config.json", layer_types=["full_attention"] * 3)
    assert inspect_model(resolve_source(str(folder))).ok


def test_several_misfits_come_in_one_run(folder):
    edit_json(folder / "config.json", num_hidden_layers=4, vocab_size=100)
    assert [d.code for d in found(folder)] == ["LB409", "LB409"]


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -1000])
def test_truncated_safetensors(folder, keep):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    (first,) = found(folder)
    assert first.code == "LB405"
    if keep < 0:
        assert f"expected {len(whole)} bytes, found {len(whole) + keep}" in first.message


def test_bytes_after_the_last_tensor(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    assert found(folder)[0].code == "LB407"


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b"[]", b"", "object"),
        (b"{oops", b"", "JSON"),
        (b"\xff{}", b"", "object"),
        (b'{"a":' * 20_000, b"", "JSON"),
        (b'{"a": {}, "a": {}}', b"", "twice"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
        ({"a": []}, b"", "entry"),
        ({"a": {**F32, "more": 1}}, b"\0" * 8, "entry"),
        ({"a": {**F32, "dtype": "F33"}}, b"\0" * 8, "dtype"),
        ({"a": {**F32, "dtype": ["F32"]}}, b"\0" * 8, "dtype"),
        ({"a": {**F32, "shape": [-2]}}, b"\0" * 8, "shape"),
        ({"a": {**F32, "shape": [True, 2]}}, b"\0" * 8, "shape"),
        ({"a": {**F32, "shape": [2.0]}}, b"\0" * 8, "shape"),
        ({"a": {**F32, "shape": [2**62, 2**62]}}, b"\0" * 8, "needs"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, b"\0" * 8, "range"),
        ({"a": {**F32, "data_offsets": [0, 8, 16]}}, b"\0" * 8, "range"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, b"\0" * 8, "range"),
        ({"a": {**F32, "shape": [3]}}, b"\0" * 8, "needs 12 bytes"),
        ({"a": F32, "b": F32}, b"\0" * 8, "overlaps"),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12, "overlaps"),
        ({"a": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12, "hole"),
    ],
)
def test_hostile_header(tmp_path, header, data, said):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, header, data)
    with pytest.raises(LbdslError) as caught:
        read_safetensors_header(path)
    (first,) = caught.value.diagnostics
    assert first.code == "LB407"
    assert first.exit_code == 6
    assert said in first.message


@pytest.mark.parametrize(("length", "code"), [(2**63, "LB407"), (100_000_001, "LB407"), (50_000, "LB405")])
def test_huge_header_length(tmp_path, length, code):
    write_safetensors(tmp_path / "model.safetensors", {}, length=length)
    with pytest.raises(LbdslError) as caught:
        read_safetensors_header(tmp_path / "model.safetensors")
    assert caught.value.diagnostics[0].code == code


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(tmp_path, data):
    """Flip bytes of a small file's header: a coded error, or a table whose ranges lie within the file."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": F32, "b": {**F32, "data_offsets": [8, 16]}}, b"\0" * 16)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    infos, codes = (), set()
    try:
        infos = read_safetensors_header(path)
    except LbdslError as problem:
        codes = {d.code for d in problem.diagnostics}
    assert codes <= {"LB405", "LB407"}
    assert all(8 < i.start <= i.stop <= len(raw) for i in infos)


def test_integer_weights_are_refused(folder):
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)
    save_file(tensors, path)
    (first,) = found(folder)
    assert first.code == "LB404"
    assert "int8" in first.message


class TestShards:
    @pytest.fixture
    def sharded(self, tmp_path):
        save_llama(tmp_path, shards=True)
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        return tmp_path

    @pytest.mark.parametrize(
        "name",
        [
            "../x.safetensors",
            "/etc/passwd",
            "a/b.safetensors",
            "..",
            "a\\b.safetensors",
            "x.bin",
            "C:x.safetensors",
            ".safetensors",
            7,
            None,
            "a\0.safetensors",
        ],
    )
    def test_index_with_a_path(self, sharded, name):
        index = sharded / "model.safetensors.index.json"
        value = json.loads(index.read_text())
        value["weight_map"]["model.norm.weight"] = name
        index.write_text(json.dumps(value))
        (first,) = found(sharded)
        assert (first.code, first.exit_code) == ("LB408", 6)

    @pytest.mark.parametrize("text", ["[]", "{", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
    def test_bad_index(self, sharded, text):
        (sharded / "model.safetensors.index.json").write_text(text)
        assert found(sharded)[0].code == "LB408"

    def test_missing_shard(self, sharded):
        next(sharded.glob("*-00002-of-*.safetensors")).unlink()
        (first,) = found(sharded)
        assert first.code == "LB405"
        assert "-00002-of-" in first.message

    def test_truncated_shard(self, sharded):
        shard = next(sharded.glob("*-00002-of-*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-3])
        (first,) = found(sharded)
        assert first.code == "LB405"
        assert shard.name in first.message

    def test_index_that_points_to_the_wrong_shard(self, sharded):
        index = sharded / "model.safetensors.index.json"
        value = json.loads(index.read_text())
        names = sorted(set(value["weight_map"].values()))
        old = value["weight_map"]["model.norm.weight"]
        value["weight_map"]["model.norm.weight"] = next(n for n in names if n != old)
        index.write_text(json.dumps(value))
        assert found(sharded)[0].code == "LB409"

    def test_one_tensor_in_two_shards(self, sharded):
        first, second = sorted(sharded.glob("*.safetensors"))[:2]
        second.write_bytes(first.read_bytes())
        assert found(sharded)[0].code == "LB409"


def test_only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (first,) = found(folder)
    assert (first.code, first.exit_code) == ("LB406", 6)
    assert "run code" in first.message


def test_no_weights_and_odd_names(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "consolidated.safetensors")
    assert found(folder)[0].code == "LB401"
    (folder / "consolidated.safetensors").unlink()
    assert found(folder)[0].code == "LB401"


class TestGguf:
    @pytest.fixture
    def gguf_file(self, tmp_path):
        path = tmp_path / "tiny.gguf"
        save_gguf(path, tiny_llama(), tokens=96)
        return path

    def inspect(self, path):
        return inspect_model(resolve_source(str(path)))

    @pytest.mark.parametrize("share", [0, 0.01, 0.05, 0.3, 0.9, 0.9999])
    def test_truncated(self, gguf_file, share):
        whole = gguf_file.read_bytes()
        gguf_file.write_bytes(whole[: int(len(whole) * share)])
        (first,) = self.inspect(gguf_file).diagnostics
        assert first.code == "LB405"

    def test_not_gguf(self, gguf_file):
        gguf_file.write_bytes(b"GGML" + b"\0" * 100)
        assert self.inspect(gguf_file).diagnostics[0].code == "LB410"

    @pytest.mark.parametrize(("tensors", "fields"), [(2**63, 1), (1, 2**63), (2**20, 0)])
    def test_hostile_counts(self, gguf_file, tensors, fields):
        gguf_file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + b"\0" * 64)
        assert self.inspect(gguf_file).diagnostics[0].code == "LB405"

    def test_hostile_array_length(self, gguf_file):
        field = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 2**60)
        gguf_file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + field + b"\0" * 64)
        assert self.inspect(gguf_file).diagnostics[0].code == "LB405"

    def test_scaled_rope_is_refused_because_it_would_be_lost(self, gguf_file):
        save_gguf(gguf_file, tiny_llama(), extra={"llama.rope.scaling.type": "linear"})
        (first,) = self.inspect(gguf_file).diagnostics
        assert first.code == "LB410"
        assert "RoPE scaling" in first.message

    def test_biases_are_refused_because_they_would_be_lost(self, gguf_file):
        save_gguf(gguf_file, tiny_llama(attention_bias=True))
        (first,) = self.inspect(gguf_file).diagnostics
        assert first.code == "LB410"
        assert "biases" in first.message

    def test_other_architecture(self, gguf_file):
        import gguf

        writer = gguf.GGUFWriter(str(gguf_file), "bert")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert self.inspect(gguf_file).diagnostics[0].code == "LB403"

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_damage_is_a_coded_error_or_harmless(self, gguf_file, data):
        original = gguf_file.read_bytes()
        raw = bytearray(original)
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, 3500))] = data.draw(st.integers(0, 255))
        try:
            gguf_file.write_bytes(bytes(raw))
            result = self.inspect(gguf_file)
        finally:
            gguf_file.write_bytes(original)
        if result.value is None:
            assert all(d.code.startswith("LB4") for d in result.diagnostics)
        else:
            assert isinstance(result.value, ModelFacts)
