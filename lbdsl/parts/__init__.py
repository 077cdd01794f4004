"""Part kinds, the components of a layer: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from lbdsl.core.registry import discover
from lbdsl.parts.base import Mark, ModelShape, Part, Slot, TensorRow, TensorShape, Window

__all__ = ["Mark", "ModelShape", "Part", "Slot", "TensorRow", "TensorShape", "Window", "parts"]


@cache
def parts() -> Mapping[str, type[Part]]:
    """All part kinds by name; cached."""
    return discover(sys.modules[__name__], Part, "lbdsl.actions")
