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

from lbdsl.vllm.layers import checked


class LbdslLlamaVllmConfig(LlamaConfig):
    model_type = "lbdsl_llama"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "llama", self)


class LbdslMistralVllmConfig(MistralConfig):
    model_type = "lbdsl_mistral"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "mistral", self)


class LbdslPhi3VllmConfig(Phi3Config):
    model_type = "lbdsl_phi3"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "phi3", self)


class LbdslQwen2VllmConfig(Qwen2Config):
    model_type = "lbdsl_qwen2"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "qwen2", self)


class LbdslQwen3VllmConfig(Qwen3Config):
    model_type = "lbdsl_qwen3"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "qwen3", self)


class LbdslSmolLM3VllmConfig(SmolLM3Config):
    model_type = "lbdsl_smollm3"

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.lbdsl = checked(lbdsl, "smollm3", self)


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
