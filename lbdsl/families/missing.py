"""Reasons why a family is not supported: features that the runtime does not have."""

from __future__ import annotations

_REASONS = {
    "routes tokens to experts in a way for which there is no runtime": (
        "qwen2_moe",
        "deepseek_v2",
        "deepseek_v3",
        "phimoe",
        "glm4_moe",
        "minimax",
        "ernie4_5_moe",
    ),
    "holds an image or audio model beside the language model; save the language model alone": (
        "gemma3n",
        "llama4",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "smolvlm",
        "llava",
        "mllama",
        "phi4_multimodal",
        "idefics3",
    ),
    "mixes tokens by a recurrence in some layers, not by softmax attention": (
        "mamba",
        "mamba2",
        "jamba",
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "recurrent_gemma",
        "rwkv",
        "zamba2",
        "lfm2",
        "qwen3_next",
        "granitemoehybrid",
        "nemotron_h",
    ),
    "has plain MLPs, or LayerNorms with biases, for which there is no runtime": (
        "gpt2",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "opt",
        "bloom",
        "falcon",
        "phi",
        "mpt",
        "codegen",
        "starcoder2",
        "stablelm",
    ),
    "is not a decoder language model": ("bert", "roberta", "t5", "bart", "whisper", "clip", "vit", "modernbert"),
}
_BY_TYPE = {name: reason for reason, names in _REASONS.items() for name in names}


def missing(model_type: str) -> str | None:
    """The reason why a family is not supported, by transformers' `model_type`; None if it is not in the list."""
    return _BY_TYPE.get(model_type)
