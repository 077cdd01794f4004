"""Packings, the tensors that stand for a matrix in a checkpoint: one file for each kind of storage that has one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from lbdsl.core.registry import discover
from lbdsl.packing.base import Packing

__all__ = ["Packing", "packings"]


@cache
def packings() -> Mapping[str, type[Packing]]:
    """All packings by the kind of storage (cached)."""
    return discover(sys.modules[__name__], Packing, "lbdsl.actions")
