"""vLLM plug-in: serves artifacts of lbdsl as they are.

vLLM finds `register` through the entry point `vllm.general_plugins`. This package needs nothing but vLLM and what vLLM
brings; lbdsl's other dependencies need not be installed there. Importing it imports nothing. A family says whether it can
be served, and which module here makes its attention and its MLP (`Family.vllm`).
"""

from __future__ import annotations

from typing import Any

KNOWN = {
    "mixer": {"attention": ("heads", "kv_heads", "head_dim", "window")},
    "ffn": {"gated_mlp": ("width",)},
    "weights": {},
}
"""The fields of the part kinds that the plug-in computes, by their place in a layer."""


def served() -> dict[str, str]:
    """The architectures of artifacts that can be served, as in their config.json, by the base's `model_type`."""
    from lbdsl.families import FAMILIES
    from lbdsl.families.engines import VllmLayers

    return {name: f"Lbdsl{row.architecture}" for name, row in FAMILIES.items() if isinstance(row.vllm, VllmLayers)}


def layers_of(family: str) -> Any:
    """The VllmLayers of a family that is served."""
    from lbdsl.families import FAMILIES

    return FAMILIES[family].vllm


def register() -> None:
    """Teach this process of vLLM the architectures and configurations of artifacts. vLLM calls it in each of its own."""
    from vllm import ModelRegistry

    from lbdsl.vllm.configurations import register_configurations

    register_configurations()
    for name in served().values():
        # By name: importing the classes here would bring a worker's state into processes that have none.
        ModelRegistry.register_model(name, f"lbdsl.vllm.models:{name}")
