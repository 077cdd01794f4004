"""Look up parts by their kind in a layer's specification. The file of this name beside saved weights is different: it
imports only the parts that the model uses."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .lbdsl_layers import check_layer


@cache
def part(kind: str) -> Any:
    """The PART object of a kind."""
    return _load(runtime_files()[kind]).PART


def checked_spec(spec: dict[str, Any], layer_idx: int) -> dict[str, Any]:
    """The layer's specification; raises ValueError that names a kind or field that no installed part supports."""
    check_layer(spec, f"layer {layer_idx}", _known())
    return spec


@cache
def _known() -> dict[str, dict[str, tuple[str, ...]]]:
    from lbdsl.parts import Slot, parts

    return {
        slot.value: {kind: tuple(part(kind).FIELDS) for kind, cls in parts().items() if cls.slot is slot and cls.runtime}
        for slot in Slot
    }


def runtime_files() -> dict[str, Path]:
    """The runtime file of every part kind that has one."""
    from lbdsl.parts import parts

    return {kind: cls.runtime for kind, cls in parts().items() if cls.runtime is not None}


@contextmanager
def state_shares() -> Iterator[Callable[[], dict[int, float]]]:
    """Call what it yields afterwards: by layer, the share of its attention's output that came from a state, of those that
    have one and were run beyond their window."""
    with ExitStack() as stack:
        found = [part(kind) for kind in runtime_files()]
        watched = [stack.enter_context(each.watch()) for each in found if hasattr(each, "watch")]
        yield lambda: {layer: total / count for each in watched for layer, (total, count) in sorted(each.items()) if count}


def _load(path: Path) -> Any:
    """Import a flat file from any folder as a module of this package, so that its relative imports work."""
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
