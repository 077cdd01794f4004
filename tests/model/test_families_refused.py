"""What is not supported is refused by name, with what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.families import FAMILIES
from lbdsl.families.missing import _BY_TYPE
from lbdsl.model.layout import layout_of
from tests.family_cases import OPTIONS, family_base

BARE = {
    "vocab_size": 64,
    "hidden_size": 128,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}


def refusal(**config) -> str:
    with pytest.raises(LbdslError) as caught:
        layout_of({**BARE, **config})
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.exit_code in (1, 6)
    return f"{diagnostic.code}: {diagnostic.message}"


@pytest.mark.parametrize("model_type", sorted(_BY_TYPE))
def test_families_that_somebody_looked_at(model_type: str) -> None:
    said = refusal(model_type=model_type)
    assert said.startswith(f"LB403: model_type '{model_type}' is not a supported family: it ")
    assert model_type not in FAMILIES


def test_families_that_nobody_looked_at() -> None:
    assert refusal(model_type="brand_new") == "LB403: model_type 'brand_new' is not a supported family"
    assert refusal(model_type=None) == "LB403: a config.json without model_type is not a supported family"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "llama", "sliding_window": 9},
            "LB404: sliding_window is set in this llama model: Llama's attention",
        ),
        (
            {"model_type": "granite", "sliding_window": 9},
            "LB404: sliding_window is set in this granite model: Granite's attention",
        ),
        ({"model_type": "granite", "residual_multiplier": 0}, "LB402: residual_multiplier"),
        ({"model_type": "llama", "layer_types": ["sliding_attention"] * 4}, "LB404: layer_types is set"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 4}, "LB404: layer_types is set"),
        (
            {"model_type": "qwen2", "layer_types": ["sliding_attention"] * 4},
            "LB404: layer_types has sliding_attention, but",
        ),
        ({"model_type": "qwen3", "layer_types": ["chunked_attention"] * 4}, "LB404: layer_types holds 'chunked_attention'"),
        (
            {"model_type": "qwen3", "layer_types": ["full_attention"] * 3},
            "LB402: layer_types in the configuration must be a list",
        ),
        ({"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 0}, "LB402: sliding_window"),
        ({"model_type": "mistral", "sliding_window": "wide"}, "LB402: sliding_window"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "LB404: use_bidirectional_attention is set"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "LB404: use_bidirectional_attention is set"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"full_attention": {"rope_type": "dynamic"}}},
            "LB404: rotary embeddings of type 'dynamic'",
        ),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "LB404: rotary embeddings of type 'longrope'"),
        ({"model_type": "phi3", "resid_pdrop": 0.1}, "LB404: resid_pdrop is set in this phi3 model: healing would"),
        ({"model_type": "olmo3", "quantization_config": {"bits": 4}}, "LB404: quantization_config is set"),
        ({"model_type": "smollm3", "per_layer_config": {"0": {}}}, "LB404: per_layer_config is set"),
        ({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5}, "LB402: num_experts_per_tok in the"),
        ({"model_type": "mixtral", "num_local_experts": "4"}, "LB402: num_local_experts"),
        ({"model_type": "mixtral", "output_router_logits": True}, "LB404: output_router_logits is set"),
        ({"model_type": "mixtral", "_experts_implementation": "sonicmoe"}, "LB404: _experts_implementation"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": 1}, "LB402: mlp_only_layers"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [[1]]}, "LB402: mlp_only_layers"),
        ({"model_type": "olmoe", "clip_qkv": 8.0}, "LB404: clip_qkv is set"),
        ({"model_type": "ministral3", "rope_parameters": {"rope_type": "default"}}, "LB402: rope_parameters"),
    ],
)
def test_settings_that_a_changed_model_would_compute_differently(config: dict, said: str) -> None:
    assert refusal(**config).startswith(said)


@pytest.mark.parametrize("family", OPTIONS)
def test_another_familys_weights_do_not_fit(family: str, tmp_path: Path) -> None:
    """A config.json of another family over the weights: named tensors are missing, extra or of another shape."""
    from lbdsl.model.inspect import inspect_model
    from lbdsl.model.source import resolve_source

    family_base(family).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    other = "phi3" if family != "phi3" else "llama"
    for field in ("layer_types", "rope_parameters", "use_bidirectional_attention"):
        content.pop(field, None)
    content.pop("partial_rotary_factor", None)
    content |= {"model_type": other, "architectures": [FAMILIES[other].architecture], "sliding_window": None}
    path.write_text(json.dumps(content))
    found = inspect_model(resolve_source(str(tmp_path)))
    assert found.value is None
    assert {diagnostic.code for diagnostic in found.diagnostics} == {"LB409"}
