"""Exporters, which write a changed model in an engine's format: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from lbdsl.core.registry import discover
from lbdsl.export.base import Exporter, Subject

__all__ = ["Exporter", "Subject", "exporters"]


@cache
def exporters() -> Mapping[str, type[Exporter]]:
    """All exporters by name (cached)."""
    return discover(sys.modules[__name__], Exporter, "lbdsl.exporters")
