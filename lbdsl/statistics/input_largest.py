"""`input_largest`: the largest size of a linear map's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class InputLargest(Statistic):
    """Shape [1]: the largest size of all inputs of `module`."""

    kind: Literal["input_largest"] = "input_largest"
    module: str

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (self.module,)

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        largest = input_BND.float().abs().amax().view(1)
        sums["largest"] = largest.maximum(sums.get("largest", largest))

    def value(self, seen: Observed) -> Tensor:
        return seen.sums["largest"]
