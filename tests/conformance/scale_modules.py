"""An action on weights with a kind of storage of its own, for tests: the modules' outputs, times a factor."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from lbdsl.actions import Action
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.base import Storage


class TestScaled(Storage):
    """The matrix as it is; what it gives is multiplied by `factor`."""

    runtime: ClassVar[Path | None] = Path(__file__).with_name("lbdsl_part_test_scaled.py")
    kind: Literal["test_scaled"] = "test_scaled"
    factor: float


class TestScale(Action):
    """Multiply what linear maps give by a number.

    What: y = factor * W x.
    Why: a change of weights that is easy to check.
    Example: `modules "*.k_proj" test_scale(factor=0.5)`
    Source: none.
    """

    kind: Literal["test_scale"] = "test_scale"
    factor: float
    example: ClassVar[str] = "test_scale(factor=0.5)"
    divisible: ClassVar[bool] = True

    def claims(self) -> tuple[str, ...]:
        return ("weights",)

    def change(self, layer: LayerSpec, modules: tuple[str, ...]) -> LayerSpec:
        return layer.replace(weights={**dict(layer.weights), **dict.fromkeys(modules, TestScaled(factor=self.factor))})
