"""A tiny model of every supported family, with whatever the family has that could go wrong switched on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from lbdsl.families import FAMILIES
from tests.layer_changes import GONE, NO_MLP, NONE, OWN, Layer, swa
from tests.specs import attention_layer

VOCAB = 101
NATIVE = 9
"""Tokens of the native windows."""

COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2}
DELTA_NETS = {
    "layer_types": ["full_attention"] * 3 + ["linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 3,
}

# Field by field: biases, QK norms, head sizes that are not hidden / heads, native windows on some layers, layers without
# rotary embeddings, rotary embeddings by type of layer, soft caps, tied and untied heads.
OPTIONS = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": NATIVE, "head_dim": 12},
    "qwen2": {"use_sliding_window": True, "sliding_window": NATIVE, "max_window_layers": 2, "tie_word_embeddings": True},
    "qwen3": {
        "head_dim": 16,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": NATIVE,
        "max_window_layers": 3,
    },
    "smollm3": {"use_sliding_window": True, "sliding_window": NATIVE, "no_rope_layer_interval": 2},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": NATIVE,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": NATIVE,
        "query_pre_attn_scalar": 16,
        "sliding_window_pattern": 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9e5},
        },
    },
    "granite": {
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
    },
    "phi3": {"sliding_window": NATIVE, "partial_rotary_factor": 0.5},
    "qwen3_moe": {
        "head_dim": 16,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": NATIVE,
        **EXPERTS,
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "olmoe": {**EXPERTS, "attention_bias": True},
    "granitemoe": {
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
    },
    "gpt_oss": {
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": NATIVE,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 8,
        },
    },
    "ministral3": {
        "sliding_window": NATIVE,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.4,
        },
    },
    "qwen3_5_text": {
        "head_dim": 16,
        "attention_bias": True,
        **DELTA_NETS,
    },
    "qwen3_5_moe_text": {
        "head_dim": 16,
        **DELTA_NETS,
        **EXPERTS,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 24,
    },
    "exaone4": {"sliding_window": NATIVE, "sliding_window_pattern": 2, "head_dim": 16},
    "olmo3": {
        "sliding_window": NATIVE,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
            "full_attention": {
                "rope_type": "yarn",
                "factor": 2.0,
                "rope_theta": 5e5,
                "original_max_position_embeddings": 1024,
                "attention_factor": 1.2,
            },
        },
    },
}
NATIVE_LAYERS = {
    "llama": (),
    "mistral": (0, 1, 2, 3),
    "qwen2": (2, 3),
    "qwen3": (3,),
    "smollm3": (1, 3),
    "gemma2": (0, 2),
    "gemma3_text": (0, 2),
    "granite": (),
    "phi3": (0, 1, 2, 3),
    "qwen3_moe": (0, 1, 2, 3),
    "mixtral": (),
    "olmoe": (),
    "granitemoe": (),
    "ministral3": (0, 1, 2, 3),
    "exaone4": (0, 2),
    "olmo3": (0, 1, 2),
    "qwen3_5_text": (),
    "qwen3_5_moe_text": (),
    "gpt_oss": (0, 2),
}
DELTA_NET = {"kind": "gated_delta_net", "key_heads": 2, "value_heads": 4, "key_dim": 8, "value_dim": 16, "kernel": 3}
FAMILY_NAMES = tuple(FAMILIES)
UNLIKE = ("llama", "phi3", "gemma3_text", "olmo3", "qwen3_moe", "qwen3_5_moe_text", "gpt_oss")
"""Families that are unlike each other."""


def each_family(names: Iterable[str] = FAMILY_NAMES) -> list[Any]:
    """All of these, as values of a test's parameter: those that are like another are slow."""
    return [name if name in UNLIKE else pytest.param(name, marks=pytest.mark.slow) for name in names]


def family_base(name: str, seed: int = 0, **changes):
    """The stock model, in eval mode, norms and biases random, too, so that a lost one is seen."""
    import transformers
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **{**COMMON, **OPTIONS[name], **changes})
    config._attn_implementation = FAMILIES[name].attention_implementation
    model = getattr(transformers, FAMILIES[name].architecture)(config).eval()
    with torch.no_grad():
        for of, parameter in model.named_parameters():
            if parameter.dim() == 1 or of.endswith("_bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def native_specs(name: str) -> list[dict]:
    """The base's layers, as in config.json."""
    head_dim = OPTIONS[name].get("head_dim", 8)
    base = attention_layer(heads=4, kv_heads=2, head_dim=head_dim, width=COMMON["intermediate_size"])
    layers = [{**base, "ffn": experts_of(name, layer) or base["ffn"]} for layer in range(4)]
    if "layer_types" in OPTIONS[name]:
        layers[3] = {**layers[3], "mixer": DELTA_NET}
    return [swa(NATIVE).of(own) if layer in NATIVE_LAYERS[name] else own for layer, own in enumerate(layers)]


def experts_of(name: str, layer: int) -> dict | None:
    """The experts of a layer, as in config.json."""
    options = OPTIONS[name]
    if "num_experts_per_tok" not in options or layer in options.get("mlp_only_layers", ()):
        return None
    width = options.get("moe_intermediate_size", COMMON["intermediate_size"])
    shared = options.get("shared_expert_intermediate_size")
    return {"kind": "moe", "experts": 6, "top_k": 2, "width": width, **({"shared": shared} if shared else {})}


def family_plans(name: str, w: int = 5, n: int = 3) -> dict[str, list[dict]]:
    """The plan shapes that break caches and masks, over a model whose own layers may be windowed."""
    return {
        title: [change.of(own) for change, own in zip(plan, native_specs(name), strict=True)]
        for title, plan in _plans(w, n).items()
        # Sinks of the family's own are all heads'.
        if not (FAMILIES[name].own_sinks and title == "full heads")
    }


def _plans(w: int, n: int) -> dict[str, list[Layer]]:
    return {
        "drop 0": [NONE, OWN, OWN, OWN],
        "swa 0": [swa(w, n), OWN, OWN, OWN],
        "drop + swa first": [NONE, swa(w, n), OWN, OWN],
        "full heads": [Layer(w, n, full_heads=1), OWN, Layer(w, full_heads=1), NONE],
        "no full layer": [swa(w, n), NONE, swa(w, n), NONE],
        "all kept": [OWN, OWN, OWN, OWN],
        "drop mlp": [OWN, NO_MLP, OWN, NO_MLP],
        "drop block": [GONE, OWN, GONE, OWN],
        "drop mlp + swa": [Layer(w, n, mlp=False), OWN, GONE, swa(w, 0)],
    }


PLAN_NAMES = tuple(family_plans("llama"))
