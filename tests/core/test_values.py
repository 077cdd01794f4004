"""What the stages before measuring hand on are values: nothing changes one after it was made."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

STAGES = ("core", "families", "parts", "layer", "actions", "language", "recipe", "solve", "plan")
COLLECTORS = {
    "Findings", "Scope", "Whole", "JsonReader", "Piece", "Paths", "_Matcher", "_Evaluation", "_Reader",
}  # fmt: skip
"""Live while one function runs, and gather what it finds."""


def classes(stage: str) -> Iterator[type]:
    package = importlib.import_module(f"lbdsl.{stage}")
    modules = [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in (package.__name__, *modules):
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and value.__module__ == name:
                yield value


@pytest.mark.parametrize("stage", STAGES)
def test_values_are_frozen(stage: str) -> None:
    found = [c for c in classes(stage) if dataclasses.is_dataclass(c) or (issubclass(c, BaseModel) and c.model_fields)]
    assert found
    for cls in found:
        frozen = cls.__dataclass_params__.frozen if dataclasses.is_dataclass(cls) else cls.model_config.get("frozen")  # type: ignore[attr-defined]
        assert frozen or cls.__name__ in COLLECTORS, cls
