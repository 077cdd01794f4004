"""Configurations of artifacts for vLLM's processes: the base family's own, with one more entry, `lbdsl`.

They are made here, not taken from the runtime beside the weights, so that no remote code has to be trusted. They stand in
the module by name because vLLM sends them from one of its processes to another.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config


class _Layers:
    """Reads the entry `lbdsl`, the source of what each layer is. ValueError for one that is not of this version."""

    def __init__(self, lbdsl: dict[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        count = self.num_hidden_layers  # type: ignore[attr-defined]
        if lbdsl is None:
            family = self.model_type.removeprefix("lbdsl_")  # type: ignore[attr-defined]
            lbdsl = {"version": 1, "base_model_type": family, "layers": [{"attn": "full"}] * count}
        if lbdsl.get("version") != 1:
            raise ValueError(f"config.lbdsl has version {lbdsl.get('version')!r}; this plug-in reads version 1")
        if len(lbdsl["layers"]) != count:
            raise ValueError(f"config.lbdsl describes {len(lbdsl['layers'])} layers, the model has {count}")
        self.lbdsl = lbdsl


class LbdslLlamaVllmConfig(_Layers, LlamaConfig):
    model_type = "lbdsl_llama"


class LbdslMistralVllmConfig(_Layers, MistralConfig):
    model_type = "lbdsl_mistral"


class LbdslQwen2VllmConfig(_Layers, Qwen2Config):
    model_type = "lbdsl_qwen2"


class LbdslQwen3VllmConfig(_Layers, Qwen3Config):
    model_type = "lbdsl_qwen3"


def register_configurations() -> None:
    """Let AutoConfig read `model_type` lbdsl_llama and the like. Twice does no harm."""
    for configuration in (LbdslLlamaVllmConfig, LbdslMistralVllmConfig, LbdslQwen2VllmConfig, LbdslQwen3VllmConfig):
        AutoConfig.register(configuration.model_type, configuration, exist_ok=True)
