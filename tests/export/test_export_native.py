"""What plain transformers classes cannot express is refused, with the layers and a reason."""

from __future__ import annotations

from typing import Any

import pytest

from lbdsl.export.native import Native, native_config
from tests.export_cases import base_subject
from tests.layer_changes import GONE, NO_MLP, NONE, OWN, Layer, sized, swa

GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 20, "sliding_window_pattern": 2}
ALL_FULL = {"sliding_window": None, "layer_types": ["full_attention"] * 4}

# what: (family, specs, options, code, words of the message)
REFUSED: dict[str, tuple[str, list[Layer], dict[str, Any], str, str]] = {
    "attention dropped": ("qwen3", [OWN, NONE, OWN, NONE], {}, "LB530", "no attention in layers 1, 3"),
    "mlp dropped": ("llama", [OWN, NO_MLP, OWN, OWN], {}, "LB530", "no MLP in layer 1"),
    "sinks": ("qwen2", [OWN, swa(8, 4), OWN, OWN], {}, "LB503", "layer 1"),
    "two windows": ("qwen2", [OWN, swa(8), swa(9), OWN], {}, "LB504", "8 in layer 1"),
    "narrower than the native window": ("mistral", [OWN, swa(8), OWN, OWN], {"sliding_window": 12}, "LB504", "12 in"),
    "KV heads by layer": (
        "granite",
        [OWN, sized(1), OWN, OWN],
        {},
        "LB505",
        "KV heads for all layers, this model has 2: 1 in",
    ),
    "widths by layer": ("phi3", [OWN, sized(width=64), GONE, OWN], {}, "LB505", "one MLP width for all layers"),
    "nothing left": ("llama", [GONE] * 4, {}, "LB530", "no layer"),
    "llama with biases": ("llama", [OWN, swa(8), OWN, OWN], {"attention_bias": True}, "LB530", "biases"),
    "phi3 in some layers": ("phi3", [OWN, swa(8), OWN, OWN], {"sliding_window": None}, "LB530", "one mask"),
    "granite windows": ("granite", [OWN, swa(8), OWN, OWN], {}, "LB530", "one mask"),
    "gemma3 retyped": ("gemma3_text", [OWN, swa(20), OWN, OWN], GEMMA3, "LB523", "layer 1"),
    "exaone4 retyped": ("exaone4", [OWN, OWN, OWN, swa(20)], {"sliding_window": 20}, "LB523", "layer 3"),
    "exaone4 without windows": ("exaone4", [swa(20), OWN, OWN, OWN], ALL_FULL, "LB523", "layer 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what):
    family, specs, options, code, words = REFUSED[what]
    errors = [d for d in Native.check(base_subject(family, specs, **options)) if d.is_error]
    assert [d.code for d in errors] == [code], errors
    assert words in errors[0].message
    assert errors[0].help
    assert errors[0].exit_code == 6


def test_lists_by_layer_are_cut_and_windows_named():
    subject = base_subject("smollm3", [GONE, swa(9), OWN, OWN])
    assert subject.left == (1, 2, 3)
    config = native_config(subject).unwrap()
    assert config["num_hidden_layers"] == 3
    assert config["no_rope_layers"] == [1, 1, 0]
    assert config["layer_types"] == ["sliding_attention", "full_attention", "full_attention"]
    assert config["sliding_window"] == 9
    assert config["use_sliding_window"] is True


def test_another_class_is_said():
    found = native_config(base_subject("llama", [OWN, swa(9), OWN, OWN]))
    assert [d.code for d in found.diagnostics] == ["LB531"]
    assert found.unwrap()["architectures"] == ["MinistralForCausalLM"]
    # Ministral's default is another than Llama's.
    assert found.unwrap()["num_key_value_heads"] == 2


def test_sizes_that_all_layers_have_are_said():
    config = native_config(base_subject("phi3", [sized(1, 64), sized(4, 48, of=GONE), sized(1, 64), sized(1, 64)])).unwrap()
    assert (config["num_key_value_heads"], config["intermediate_size"]) == (1, 64)
    assert config["num_attention_heads"] == 4
