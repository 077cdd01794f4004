"""Exporters, what a changed model can be written as for an engine: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from lbdsl.core.registry import discover
from lbdsl.export.base import Exporter, Subject

__all__ = ["Exporter", "Subject", "exporters"]


@cache
def exporters() -> Mapping[str, type[Exporter]]:
    """Every exporter by name, found once."""
    return discover(sys.modules[__name__], Exporter, "lbdsl.exporters")
