"""`patch`: the linear map of a sub-block's output that makes up for dropped sub-blocks after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 0.01
"""Ridge regularization, relative to the mean square of an output's elements."""

Use = Literal["fit", "check"]


class Patch(Statistic):
    """Shape [D, D]: I + factor * a * C (G + ridge I)^-1, where G is the sum of m m^T and C that of r m^T over the tokens of
    the calibration text; m [D] is the output of the kept sub-block, and r [D] the sum of the outputs of the dropped ones,
    both in the model with the changes of all layers before.

    0 <= a <= 1 is the share of the map with the least squared error on a text of another source: 0 where it does not help
    there. `factor` is a number, or `joint`: the one for all patches of a plan with the least loss on that text. It is
    observed over several layers, by `lbdsl.measure.patches`.
    """

    kind: Literal["patch"] = "patch"
    dropped: str
    factor: str
    module: str
    stream: str

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return ()

    def add_pair(self, sums: dict[str, Tensor], use: Use, kept_BND: Tensor, dropped_BND: Tensor) -> None:
        """Add m and r of B sequences of N tokens to `sums`."""
        kept, dropped = (value.float().flatten(0, 1) for value in (kept_BND, dropped_BND))
        for name, left in (("gram", kept), ("cross", dropped)):
            zeros = kept.new_zeros(kept.shape[1], kept.shape[1])
            sums.setdefault(f"{use} {name}", zeros).addmm_(left.T, kept)

    def value(self, seen: Observed) -> Tensor:
        import torch

        sums = {name: value.to("cpu", torch.float64) for name, value in seen.sums.items()}
        gram, eye = sums["fit gram"], torch.eye(len(sums["fit gram"]), dtype=torch.float64)
        # A ridge above 0 also if all outputs are 0: avoids division by 0.
        ridge = (RIDGE * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
        found = torch.cholesky_solve(sums["fit cross"].T, torch.linalg.cholesky(gram + ridge * eye)).T
        size, along = (found * (found @ sums["check gram"])).sum(), (found * sums["check cross"]).sum()
        share = (along / size).clamp(0.0, 1.0) if size > 0 else size
        return eye + share * found
