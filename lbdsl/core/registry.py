"""Discover actions and metrics: a new one is one file, with no other file edited.

Three places are searched, in this order: the modules of the package itself, installed distributions with an entry point
in the group, and the modules or `.py` files named in `LBDSL_PLUGINS` (separated like `PATH`). A plug-in that cannot be
loaded is an error (LB483), so that a missing action does not cause a different error later.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar, cast

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_file

T = TypeVar("T")

PLUGINS_VARIABLE = "LBDSL_PLUGINS"

_FROM_FILE = "lbdsl_plugin_"
"""What the names of modules begin with that are read from a file."""


def discover(package: ModuleType, base: type[T], group: str) -> Mapping[str, type[T]]:
    """Every concrete subclass of `base` found, by its `kind`; two with the same kind are LB483."""
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if info.name != "base"
    ]
    plugins = [point.module for point in _installed().select(group=group)]
    plugins += [name for name in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if name]
    modules += [_plugin(name) for name in plugins]
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
                kind = _kind(value)
                if found.setdefault(kind, value) is not value:
                    where = f"{found[kind].__module__} and {value.__module__}"
                    raise fail("LB483", f"two {base.__name__.lower()}s are called {kind!r}: {where}")
                code_of(cast(Any, value))
    return MappingProxyType(dict(sorted(found.items())))


@cache
def code_of(cls: Any) -> Mapping[str, str]:
    """The sha256 of a plug-in's file, and of its runtime file, by their modules' names; nothing for lbdsl's own. It is
    taken when the class is found, and kept: a file that is edited later is not what this process runs."""
    if cls.__module__.partition(".")[0] == "lbdsl":
        return {}
    files = {cls.__module__.removeprefix(_FROM_FILE): getattr(sys.modules[cls.__module__], "__file__", None)}
    runtime = getattr(cls, "runtime", None)
    if isinstance(runtime, Path):
        files[runtime.stem] = str(runtime)
    return {name: digest_file(Path(file)) for name, file in files.items() if file and Path(file).is_file()}


def _kind(cls: Any) -> str:
    """The kind of a class: the default of that field of a pydantic class, else its attribute."""
    fields = getattr(cls, "model_fields", None)
    return str(fields["kind"].default) if fields else cls.kind


@cache
def _installed() -> Any:
    """The entry points of all installed distributions; slow, so read only once."""
    return entry_points()


def _plugin(name: str) -> ModuleType:
    try:
        return _from_file(Path(name).resolve()) if name.endswith(".py") else importlib.import_module(name)
    except Exception as problem:
        raise fail(
            "LB483",
            f"the plug-in {name} cannot be loaded: {type(problem).__name__}: {problem}",
            help="docs/actions.md has a plug-in for this version; CHANGELOG.md says what earlier ones must change",
        ) from problem


def _from_file(path: Path) -> ModuleType:
    module_name = f"{_FROM_FILE}{path.stem}"
    if module_name in sys.modules:
        loaded = sys.modules[module_name]
        if Path(str(loaded.__file__)) != path:
            raise ValueError(f"another one has that name: {loaded.__file__}")
        return loaded
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # A second import must fail again.
        del sys.modules[module_name]
        raise
    return module
