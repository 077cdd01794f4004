"""`input_gram`: the Gram matrix of a linear map's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor


FIRST = 32
"""How many other tokens the first token of a sequence counts as. Every later token attends to it, and its hidden states are
like no other's: without this weight, error feedback that makes the mean output better makes its keys and values useless."""


class InputGram(Statistic):
    """Shape [D, D]: the mean of x x^T over the tokens, for the inputs x of `module`; a sequence's first token counts FIRST
    times.

    Source: weights by how much a token is attended to are those of RSQ (arXiv 2503.01820).
    """

    kind: Literal["input_gram"] = "input_gram"
    module: str

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (self.module,)

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        import torch

        weights = input_BND.new_ones(input_BND.shape[:2], dtype=torch.float32)
        weights[:, 0] = FIRST
        inputs = (input_BND.float() * weights.sqrt().unsqueeze(-1)).flatten(0, 1)
        if "products" not in sums:
            sums["weights"] = inputs.new_zeros(())
            sums["products"] = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
        sums["products"].addmm_(inputs.T, inputs)
        sums["weights"] += weights.sum()

    def value(self, seen: Observed) -> Tensor:
        return seen.sums.pop("products").div_(seen.sums["weights"])
