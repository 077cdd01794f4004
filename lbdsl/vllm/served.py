"""What the plug-in serves: families, and the fields of parts that it computes. Importing it imports nothing."""

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
