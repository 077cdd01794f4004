"""Finding actions and metrics: one file each, nothing else edited.

Three places are looked in, in this order: the modules of the package itself, installed distributions with an entry
point in the group, and the modules or `.py` files named in `LBDSL_PLUGINS` (separated as `PATH` is). A plug-in that
fails to import raises: a missing action must never turn into another error later.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TypeVar

from lbdsl.core.nearest import nearest

__all__ = ["PLUGINS_VARIABLE", "discover", "nearest"]

T = TypeVar("T")

PLUGINS_VARIABLE = "LBDSL_PLUGINS"


def discover(package: ModuleType, base: type[T], group: str) -> Mapping[str, type[T]]:
    """Every concrete subclass of `base` found, by its `kind`; two with one kind raise ValueError."""
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if info.name != "base"
    ]
    modules += [importlib.import_module(point.module) for point in entry_points(group=group)]
    modules += [_plugin(name) for name in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if name]
    found: dict[str, type[T]] = {}
    for module in modules:
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, base)
                and value is not base
                and value.__module__ == module.__name__
                and not value.__name__.startswith("_")
            ):
                kind = value.kind_name()  # type: ignore[attr-defined]
                if found.setdefault(kind, value) is not value:
                    raise ValueError(
                        f"two {base.__name__.lower()}s are called {kind!r}: {found[kind].__module__} and {value.__module__}"
                    )
    return MappingProxyType(dict(sorted(found.items())))


def _plugin(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    module_name = f"lbdsl_plugin_{path.stem}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{PLUGINS_VARIABLE} names {name}, which is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
