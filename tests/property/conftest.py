"""Two actions that only the tests of the planner know, as plug-ins, and only while these tests run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ACTIONS = sorted(Path(__file__).with_name("actions").glob("*.py"))
_CACHED = type(cache(lambda: None))


@pytest.fixture(scope="module")
def more_actions() -> Iterator[None]:
    """`test_kv_heads(n)` and `test_width(n)`. What the package found is forgotten before and after: other tests run in
    this process, too, and say which actions there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LBDSL_PLUGINS", os.pathsep.join(str(path) for path in ACTIONS))
        _forget()
        yield
    _forget()


def _forget() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "lbdsl" and isinstance(module, ModuleType):
            for value in list(vars(module).values()):
                if isinstance(value, _CACHED):
                    value.cache_clear()
