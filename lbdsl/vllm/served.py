"""The families that the plug-in serves, and the part fields that it supports. Importing it imports nothing else."""

from __future__ import annotations

from typing import Any

KNOWN = {
    "mixer": {"attention": ("heads", "kv_heads", "head_dim", "window", "cache")},
    "ffn": {"gated_mlp": ("width",), "moe": ("experts", "top_k", "width", "shared")},
    "weights": {"int": ("bits", "group", "activations", "method"), "fp8": ("activations",), "nvfp4": ("activations",)},
}
"""The supported part kinds with their fields, by slot."""


def served() -> dict[str, str]:
    """The architectures (as in config.json) of artifacts that can be served, by the base's `model_type`."""
    from lbdsl.families import FAMILIES
    from lbdsl.families.engines import VllmLayers

    return {name: f"Lbdsl{row.architecture}" for name, row in FAMILIES.items() if isinstance(row.vllm, VllmLayers)}


def layers_of(family: str) -> Any:
    """The VllmLayers of a family that can be served."""
    from lbdsl.families import FAMILIES

    return FAMILIES[family].vllm
