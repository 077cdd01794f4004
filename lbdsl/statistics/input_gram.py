"""`input_gram`: the Gram matrix of a linear map's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class InputGram(Statistic):
    """Shape [D, D]: the mean of x x^T over the tokens, for the inputs x of `module`."""

    kind: Literal["input_gram"] = "input_gram"
    module: str

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (self.module,)

    def add(self, sums: dict[str, Tensor], module: str, input_MD: Tensor, output_ME: Tensor) -> None:
        inputs = input_MD.float()
        if "products" not in sums:
            sums["products"] = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
        sums["products"].addmm_(inputs.T, inputs)

    def value(self, seen: Observed) -> Tensor:
        return seen.sums.pop("products").div_(seen.tokens)
