"""The supported model families: one file each.

To add one, write its file (docs/families.md), and a second one in `lbdsl.vllm` if vLLM constructs the family's layers in a
different way; no other file mentions a family by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from lbdsl.families.base import Family

__all__ = ["ARTIFACT_PREFIX", "FAMILIES", "Family"]

ARTIFACT_PREFIX = "lbdsl_"
"""An artifact's `model_type` is this prefix plus its base family's `model_type`."""


def _families() -> Mapping[str, Family]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    rows = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return MappingProxyType({row.model_type: row for row in sorted(rows, key=lambda row: row.model_type)})


FAMILIES: Mapping[str, Family] = _families()
