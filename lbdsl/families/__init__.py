"""The supported model families: one file each.

To add one, write its file (docs/families.md), and a second one below `lbdsl.vllm` where vLLM's layers of the family are
built in a way of their own; nothing else knows a family by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from lbdsl.families.base import Family, TensorRow

__all__ = ["ARTIFACT_PREFIX", "FAMILIES", "Family", "TensorRow"]

ARTIFACT_PREFIX = "lbdsl_"
"""An artifact's `model_type` is this and its base family's."""


def _families() -> Mapping[str, Family]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    rows = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return MappingProxyType({row.model_type: row for row in sorted(rows, key=lambda row: row.model_type)})


FAMILIES: Mapping[str, Family] = _families()
