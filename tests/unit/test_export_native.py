"""What plain transformers classes cannot express is refused, with the layers and a reason."""

from __future__ import annotations

from typing import Any

import pytest

from lbdsl.export import Subject
from lbdsl.export.base import subject_of
from lbdsl.export.native import Native, native_form
from tests.export_cases import base_facts

FULL, NONE, GONE = {"attn": "full"}, {"attn": "none"}, {"attn": "none", "mlp": "none"}
GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 20, "sliding_window_pattern": 2}


def swa(window: int, sinks: int = 0) -> dict[str, Any]:
    return {"attn": "swa", "window": window, "sinks": sinks}


def subject(family: str, specs: list[dict[str, Any]], **options: Any) -> Subject:
    config, facts = base_facts(family, **options)
    return subject_of(config, facts, specs)


# what: (family, specs, options, code, words of the message)
REFUSED: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any], str, str]] = {
    "attention dropped": ("qwen3", [FULL, NONE, FULL, NONE], {}, "LB530", "no attention in layers 1, 3"),
    "mlp dropped": ("llama", [FULL, {"attn": "full", "mlp": "none"}, FULL, FULL], {}, "LB530", "no MLP in layer 1"),
    "sinks": ("qwen2", [FULL, swa(8, 4), FULL, FULL], {}, "LB503", "layer 1"),
    "two windows": ("qwen2", [FULL, swa(8), swa(9), FULL], {}, "LB504", "8 in layer 1"),
    "narrower than the native window": ("mistral", [FULL, swa(8), FULL, FULL], {"sliding_window": 12}, "LB504", "12 in"),
    "own mixer": ("llama", [FULL, {"attn": "linear"}, FULL, FULL], {}, "LB505", "linear"),
    "nothing left": ("llama", [GONE] * 4, {}, "LB530", "no layer"),
    "llama with biases": ("llama", [FULL, swa(8), FULL, FULL], {"attention_bias": True}, "LB530", "biases"),
    "phi3 in some layers": ("phi3", [FULL, swa(8), FULL, FULL], {"sliding_window": None}, "LB530", "one mask"),
    "gemma3 retyped": ("gemma3_text", [FULL, swa(20), FULL, FULL], GEMMA3, "LB523", "layer 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what):
    family, specs, options, code, words = REFUSED[what]
    errors = [d for d in Native.check(subject(family, specs, **options)) if d.is_error]
    assert [d.code for d in errors] == [code], errors
    assert words in errors[0].message
    assert errors[0].help
    assert errors[0].exit_code == 6


def test_lists_by_layer_are_cut_and_windows_named():
    form = native_form(subject("smollm3", [GONE, swa(9), FULL, FULL])).unwrap()
    assert form.layers == (1, 2, 3)
    assert form.config["num_hidden_layers"] == 3
    assert form.config["no_rope_layers"] == [1, 1, 0]
    assert form.config["layer_types"] == ["sliding_attention", "full_attention", "full_attention"]
    assert form.config["sliding_window"] == 9
    assert form.config["use_sliding_window"] is True


def test_another_class_is_said():
    found = native_form(subject("llama", [FULL, swa(9), FULL, FULL]))
    assert [d.code for d in found.diagnostics] == ["LB531"]
    assert found.unwrap().config["architectures"] == ["MinistralForCausalLM"]
    # Ministral's default is another than Llama's.
    assert found.unwrap().config["num_key_value_heads"] == 2
