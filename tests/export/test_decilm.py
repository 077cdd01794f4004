"""The DeciLM export: what its configuration says, and what it refuses and why."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lbdsl.core.diagnostic import Severity
from lbdsl.export.base import Subject, subject_of
from lbdsl.export.decilm import CONFIGURATION, DeciLM, decilm_config, ffn_mult
from lbdsl.export.vllm import VllmPlugin
from lbdsl.families import FAMILIES
from lbdsl.families.engines import Lacks
from tests.layer_changes import GONE, NO_MLP, NONE, OWN, Layer, changed_specs, sized, swa
from tests.plan_cases import llama_facts

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 123456.0},
}


def subject(*layers: Layer, family: str = "llama", native: int | None = None, **config: Any) -> Subject:
    width = config.get("intermediate_size", CONFIG["intermediate_size"])
    facts = dataclasses.replace(llama_facts(layers=len(layers), native_window=native, intermediate=width), family=family)
    specs = changed_specs(facts, layers)
    return subject_of({**CONFIG, "num_hidden_layers": len(layers), "model_type": family, **config}, facts, specs)


def codes(exporter: Any, value: Subject) -> list[str]:
    return [d.code for d in exporter.check(value) if d.is_error]


@pytest.mark.parametrize(
    ("specs", "refused"),
    [
        ((OWN, OWN, OWN, OWN), []),
        ((OWN, NONE, swa(32), NO_MLP), []),
        ((GONE, GONE, OWN, NONE), []),
        ((NO_MLP, NONE, OWN, OWN), []),
        ((sized(1, 96), NONE, sized(4, 33, of=swa(32)), NO_MLP), []),
        ((NONE, OWN, OWN, OWN), ["LB502"]),
        ((GONE, NONE, OWN, OWN), ["LB502"]),
        ((GONE, GONE, GONE, GONE), ["LB502"]),
        ((OWN, swa(32, 4), OWN, OWN), ["LB503"]),
        ((OWN, swa(32), swa(64), OWN), ["LB504"]),
        ((NONE, OWN, swa(32, 4), swa(64)), ["LB503", "LB504", "LB502"]),
    ],
)
def test_each_refusal_has_its_code(specs: tuple[Layer, ...], refused: list[str]) -> None:
    assert codes(DeciLM, subject(*specs)) == refused


def test_a_refusal_names_the_layers_and_a_way_out() -> None:
    found = DeciLM.check(subject(OWN, swa(32), swa(64), swa(64)))
    assert found[0].message == ("DeciLM has one window for all layers, this model has 2: 32 in layer 1; 64 in layers 2-3")
    assert found[0].help


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if isinstance(row.decilm, Lacks)])
def test_every_other_family_is_refused_with_what_decilm_lacks(family: str) -> None:
    found = [d for d in DeciLM.check(subject(OWN, NONE, OWN, family=family)) if d.code == "LB506"]
    assert [FAMILIES[family].decilm.what in d.message for d in found] == [True]


def test_other_settings_are_refused() -> None:
    assert codes(DeciLM, subject(OWN, hidden_act="gelu")) == ["LB506"]
    assert codes(VllmPlugin, subject(OWN, hidden_act="gelu")) == ["LB506"]


def test_a_kept_native_window_is_a_window() -> None:
    assert codes(DeciLM, subject(OWN, NONE, swa(32), family="mistral", native=64)) == ["LB504"]
    value = subject(OWN, NONE, swa(64), family="mistral", native=64)
    assert codes(DeciLM, value) == []
    config = decilm_config(value)
    assert config["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    assert config["sliding_window"] == 64


@pytest.mark.parametrize(
    ("specs", "refused"),
    [
        ((NONE, swa(32), swa(64), NO_MLP), []),
        ((sized(1, 96), sized(4, 33), sized(1, of=swa(64)), NO_MLP), []),
        ((NONE, NONE, GONE, NO_MLP), []),
        ((OWN, swa(32, 4), OWN, OWN), ["LB503"]),
        ((NONE, NONE, NONE, GONE), ["LB502"]),
    ],
)
def test_what_the_plugin_refuses(specs: tuple[Layer, ...], refused: list[str]) -> None:
    for family in ("llama", "qwen3"):
        assert codes(VllmPlugin, subject(*specs, family=family)) == refused
    assert codes(VllmPlugin, subject(OWN, family="gemma2")) == ["LB506"]


def test_sglang_is_told_apart() -> None:
    windowed = DeciLM.check(subject(OWN, swa(32), OWN, swa(32), intermediate_size=256))
    assert [(d.code, d.severity) for d in windowed] == [("LB510", Severity.NOTE)]
    assert "full attention in layers 1, 3" in windowed[0].message
    odd = DeciLM.check(subject(OWN, NONE))
    assert "no MLP of 128" in odd[0].message


def test_sglang_is_told_apart_by_sizes() -> None:
    def told(*layers: Layer) -> list[str]:
        return [d.message for d in DeciLM.check(subject(*layers, intermediate_size=512))]

    (thin,) = told(OWN, sized(1))
    assert thin.endswith("one number of KV heads for all layers, this model has 1 and 2")
    assert told(sized(1), sized(1), NONE) == []
    assert told(OWN, sized(width=256)) == []
    (narrow,) = told(OWN, sized(width=256), sized(width=384), sized(width=448))
    assert "no MLP of 384 or 448" in narrow


def test_query_heads_and_head_sizes_are_the_base_models() -> None:
    value = subject(OWN, OWN)
    mixer = value.specs[1].mixer.replace(heads=8, kv_heads=8)
    value = dataclasses.replace(value, specs=(value.specs[0], value.specs[1].replace(mixer=mixer)))
    for exporter in (DeciLM, VllmPlugin):
        (found,) = (d for d in exporter.check(value) if d.is_error)
        assert found.code == "LB505"
        assert "cannot change `mixer.heads`, here 8 instead of 4 (layer 1)" in found.message


def test_each_layer_has_its_own_sizes_in_the_configuration() -> None:
    written = decilm_config(subject(sized(1, 256), sized(4, 96), NONE, sized(2, of=NO_MLP)))
    assert [(block["kv_heads"], block["width"]) for block in written["lbdsl_blocks"]] == [
        (1, 256),
        (4, 96),
        (None, 128),
        (2, None),
    ]
    assert [block["ffn_mult"] is None for block in written["lbdsl_blocks"]] == [False, True, True, True]
    assert decilm_rule(written["lbdsl_blocks"][0]["ffn_mult"], 64) == 256
    assert (written["num_key_value_heads"], written["intermediate_size"]) == (4, 256)
    # What is one number where layers are alike is theirs, not the base's.
    alike = decilm_config(subject(sized(1, 96), sized(1, 96), GONE))
    assert (alike["num_key_value_heads"], alike["intermediate_size"]) == (1, 96)


def decilm_rule(mult: float, hidden: int) -> int:
    """As vLLM and SGLang compute it."""
    size = int(2 * mult * hidden / 3)
    return size if size % 256 == 0 else size + 256 - size % 256


@pytest.mark.parametrize(
    ("hidden", "intermediate"),
    [(576, 1536), (4096, 11008), (4096, 14336), (8192, 28672), (2048, 8192), (3072, 8192), (64, 256)],
)
def test_ffn_mult_gives_exactly_the_size(hidden: int, intermediate: int) -> None:
    mult = ffn_mult(hidden, intermediate)
    assert mult is not None
    assert decilm_rule(mult, hidden) == intermediate


def test_ffn_mult_where_there_is_none() -> None:
    assert ffn_mult(896, 4864 + 8) is None


def config_class() -> Any:
    spec = importlib.util.spec_from_file_location(CONFIGURATION.stem, CONFIGURATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LbdslDeciLMConfig


@pytest.mark.torch
def test_transformers_reads_the_configuration_and_keeps_it(tmp_path: Path) -> None:
    from transformers import AutoConfig

    value = subject(OWN, NONE, sized(1, 256, of=swa(32)), sized(4, of=NO_MLP), qkv_bias=None)
    written = decilm_config(value)
    (tmp_path / "config.json").write_text(json.dumps(written))
    (tmp_path / CONFIGURATION.name).write_text(CONFIGURATION.read_text())
    read = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(read).__name__ == "LbdslDeciLMConfig"
    again = config_class()(**{k: v for k, v in read.to_dict().items() if k != "model_type"})
    for config in (read, again):
        assert [block.attention.no_op for block in config.block_configs] == [False, True, False, False]
        assert [block.ffn.no_op for block in config.block_configs] == [False, False, False, True]
        assert [block.attention.n_heads_in_group for block in config.block_configs] == [2, None, 4, 1]
        assert [block.ffn.intermediate_size for block in config.block_configs] == [128, 128, 256, None]
        assert config.layer_types == ["full_attention", "full_attention", "sliding_attention", "full_attention"]
        assert (config.sliding_window, config.rope_theta, config.tie_word_embeddings) == (32, 123456.0, True)
        assert config.rope_parameters["rope_theta"] == 123456.0
        assert not hasattr(config, "qkv_bias")
        assert [hasattr(block.ffn, "ffn_mult") for block in config.block_configs] == [False, False, True, False]
        json.dumps(config.to_dict())


@pytest.mark.torch
def test_qwen2_has_biases_at_queries_keys_and_values_alone() -> None:
    config = config_class()(
        **{
            k: v
            for k, v in decilm_config(subject(OWN, NONE, family="qwen2")).items()
            if k not in ("model_type", "auto_map", "architectures")
        }
    )
    assert (config.qkv_bias, config.attention_bias) == (True, False)


@pytest.mark.torch
def test_a_configuration_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="describes 1 layers, the model has 4"):
        config_class()(num_hidden_layers=4, lbdsl_blocks=[{"kv_heads": 4, "width": 128, "ffn_mult": None}])
