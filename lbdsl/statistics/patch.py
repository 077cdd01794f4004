"""`patch`: the linear map of a sub-block's output that makes up for dropped sub-blocks after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor

RIDGES = (0.01, 0.1, 1.0, 10.0)
"""Ridge regularization, relative to the mean square of an output's elements."""

Text = Literal["fit", "check"]


class Patch(Statistic):
    """Shape [D, D]: I + C (G + ridge I)^-1, where G is the sum of m m^T and C that of r m^T over the tokens of the
    calibration text; m [D] is the output of the kept sub-block, and r [D] the sum of the outputs of the dropped ones, both
    in the model with the changes of all layers before.

    The ridge is the one of `RIDGES` with the least squared error on a text of another source; it is the identity where none
    of them has a smaller error there than no patch. It is observed over several layers, by `lbdsl.measure.patches`.
    """

    kind: Literal["patch"] = "patch"
    dropped: str
    module: str
    stream: str

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return ()

    def add_pair(self, sums: dict[str, Tensor], text: Text, kept_BND: Tensor, dropped_BND: Tensor) -> None:
        """Add m and r of B sequences of N tokens of a text to `sums`."""
        kept, dropped = (value.float().flatten(0, 1) for value in (kept_BND, dropped_BND))
        zeros = kept.new_zeros(kept.shape[1], kept.shape[1])
        for name, left, right in (("gram", kept, kept), ("cross", dropped, kept)):
            sums.setdefault(f"{text} {name}", zeros.clone()).addmm_(left.T, right)

    def value(self, seen: Observed) -> Tensor:
        import torch

        sums = {name: value.to("cpu", torch.float64) for name, value in seen.sums.items()}
        gram, cross = sums["fit gram"], sums["fit cross"]
        scale = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
        best, least = torch.zeros_like(gram), 0.0
        for ridge in RIDGES:
            factor = torch.linalg.cholesky(gram + ridge * scale * torch.eye(len(gram), dtype=gram.dtype))
            found = torch.cholesky_solve(cross.T, factor).T
            # The squared error on the other text, less that of no patch.
            error = float((found * (found @ sums["check gram"] - 2 * sums["check cross"])).sum())
            if error < least:
                best, least = found, error
        return best + torch.eye(len(best), dtype=best.dtype)
