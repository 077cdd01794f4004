"""Mixers by the name that a layer's specification gives as `attn`. Beside saved weights this file is another one: it
imports just the mixers that the model uses."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .lbdsl_mixer_full import MIXER as FULL


@cache
def mixer(name: str) -> Any:
    """The MIXER object called `name`; ValueError when no installed action brings it."""
    if name == "full":
        return FULL
    path = runtime_files().get(name)
    if path is None:
        raise ValueError(f"no mixer is called {name!r}; installed: {', '.join(['full', *runtime_files()])}")
    return _load(path).MIXER


def runtime_files() -> dict[str, Path]:
    """The runtime file of every action that brings a mixer, by the mixer's name."""
    from lbdsl.actions import actions

    return {kind: action.runtime for kind, action in actions().items() if action.runtime is not None}


def _load(path: Path) -> Any:
    """Import a flat file as a module of this package, wherever it lies, so that its relative imports work."""
    name = f"{__package__}.{path.stem}"
    if name in sys.modules:
        loaded = sys.modules[name]
        if Path(str(loaded.__file__)).resolve() != path.resolve():
            raise ValueError(f"two runtime files are called {path.name}: {loaded.__file__} and {path}")
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
