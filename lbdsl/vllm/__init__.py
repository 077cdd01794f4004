"""vLLM plug-in: serves artifacts of lbdsl as they are.

vLLM finds `register` through the entry point `vllm.general_plugins`. This package needs nothing but vLLM and what vLLM
brings; lbdsl's other dependencies need not be installed there. Importing it imports nothing.
"""

from __future__ import annotations

FAMILIES = ("llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
"""Families that the plug-in has layers for, by the base's `model_type`."""

KNOWN = {
    "mixer": {"attention": ("heads", "kv_heads", "head_dim", "window")},
    "ffn": {"gated_mlp": ("width",)},
    "weights": {},
}
"""The fields of the part kinds that the plug-in computes, by their place in a layer."""

CLASSES = {
    "llama": "LbdslLlamaForCausalLM",
    "mistral": "LbdslMistralForCausalLM",
    "phi3": "LbdslPhi3ForCausalLM",
    "qwen2": "LbdslQwen2ForCausalLM",
    "qwen3": "LbdslQwen3ForCausalLM",
    "smollm3": "LbdslSmolLM3ForCausalLM",
}
"""Architectures of artifacts, as in their config.json; the classes of `lbdsl.vllm.models` have the same names."""


def register() -> None:
    """Teach this process of vLLM the architectures and configurations of artifacts. vLLM calls it in each of its own."""
    from vllm import ModelRegistry

    from lbdsl.vllm.configurations import register_configurations

    register_configurations()
    for name in CLASSES.values():
        # By name: importing the classes here would bring a worker's state into processes that have none.
        ModelRegistry.register_model(name, f"lbdsl.vllm.models:{name}")
