"""Configurations of artifacts for vLLM's processes: the base family's own, with one more entry, `lbdsl`.

They are made here, not taken from the runtime beside the weights, so that no remote code has to be trusted. They stand in
the module by name because vLLM sends them from one of its processes to another. Each has an `__init__` of its own:
transformers gives one to a class that has none.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)


def checked(lbdsl: dict[str, Any] | None, family: str, count: int) -> dict[str, Any]:
    """The entry; without one every layer is full. ValueError for another version or another number of layers."""
    if lbdsl is None:
        return {"version": 1, "base_model_type": family, "layers": [{"attn": "full"}] * count}
    if lbdsl.get("version") != 1:
        raise ValueError(f"config.lbdsl has version {lbdsl.get('version')!r}; this plug-in reads version 1")
    if lbdsl.get("base_model_type") != family:
        raise ValueError(f"config.lbdsl is for {lbdsl.get('base_model_type')!r}, not for {family!r}")
    if len(lbdsl["layers"]) != count:
        raise ValueError(f"config.lbdsl describes {len(lbdsl['layers'])} layers, the model has {count}")
    return lbdsl


class LbdslLlamaVllmConfig(LlamaConfig):
    model_type = "lbdsl_llama"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "llama", self.num_hidden_layers)


class LbdslMistralVllmConfig(MistralConfig):
    model_type = "lbdsl_mistral"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "mistral", self.num_hidden_layers)


class LbdslPhi3VllmConfig(Phi3Config):
    model_type = "lbdsl_phi3"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "phi3", self.num_hidden_layers)


class LbdslQwen2VllmConfig(Qwen2Config):
    model_type = "lbdsl_qwen2"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "qwen2", self.num_hidden_layers)


class LbdslQwen3VllmConfig(Qwen3Config):
    model_type = "lbdsl_qwen3"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "qwen3", self.num_hidden_layers)


class LbdslSmolLM3VllmConfig(SmolLM3Config):
    model_type = "lbdsl_smollm3"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "smollm3", self.num_hidden_layers)


CONFIGURATIONS = (
    LbdslLlamaVllmConfig,
    LbdslMistralVllmConfig,
    LbdslPhi3VllmConfig,
    LbdslQwen2VllmConfig,
    LbdslQwen3VllmConfig,
    LbdslSmolLM3VllmConfig,
)


def register_configurations() -> None:
    """Let AutoConfig read `model_type` lbdsl_llama and the like. Twice does no harm."""
    for configuration in CONFIGURATIONS:
        AutoConfig.register(configuration.model_type, configuration, exist_ok=True)
