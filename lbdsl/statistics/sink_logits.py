"""`sink_logits`: the learned sinks of a window, by which each query head's output is closest to that of full attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.attention import NO_SINK
from lbdsl.statistics.base import Attended, Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST, STEP = -20.0, 40.0, 0.25
"""Sinks are chosen among these values, and none. Logarithms of denominators are rounded to the same steps."""
ROUNDING = 1e-6
"""Errors are differences of sums in float32, of about this relative precision."""
SCORES = 2**26
"""Scores that are in memory at once."""


class SinkLogits(Statistic):
    """Shape [heads]: for each query head the number s for which the squared error of the head's output, over all tokens, is
    least, compared with what the layer gives as it is; NO_SINK where none helps. With a window, an output is
    sigmoid(l - s) times what it is without a sink, where l is the logarithm of the softmax's denominator. Errors are those
    of the head's contribution to the output projection.

    Source: the form is gpt-oss's (arXiv 2508.10925).
    """

    kind: Literal["sink_logits"] = "sink_logits"
    window: int

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return ()

    def add_attention(self, sums: dict[str, Tensor], seen: Attended, weights: Callable[[str], Tensor]) -> None:
        import torch

        projection = weights("self_attn.o_proj.weight").float()
        batch, heads, length, size = seen.query_BHND.shape
        gram_HDD = torch.einsum("ehd,ehf->hdf", *2 * (projection.unflatten(1, (heads, size)),))
        bins = round((HIGHEST - LOWEST) / STEP)
        if not sums:
            sums |= {name: projection.new_zeros(heads, bins) for name in ("own", "cross")}
        key, value = (
            states.float().repeat_interleave(heads // states.shape[1], 1) for states in (seen.key_BGND, seen.value_BGND)
        )
        column_K = torch.arange(length, device=key.device)
        rows = max(1, SCORES // (batch * heads * length))
        for start in range(0, length, rows):
            query_Q1 = column_K[start : start + rows, None]
            scores = seen.query_BHND[:, :, start : start + rows].float() @ key.mT * seen.scaling
            near = (column_K <= query_Q1) & (column_K > query_Q1 - self.window)
            scores = scores.masked_fill(~near, -torch.inf)
            base = seen.output_BNHD[:, start : start + rows].transpose(1, 2).float()
            output, logs = scores.softmax(-1) @ value, scores.logsumexp(-1)
            weighted = torch.einsum("bhqd,hdf->bhqf", output, gram_HDD)
            place = ((logs - LOWEST) / STEP).long().clamp(0, bins - 1).transpose(0, 1).flatten(1)
            for name, other in (("own", output), ("cross", base)):
                sums[name].scatter_add_(1, place, (weighted * other).sum(-1).transpose(0, 1).flatten(1))

    def value(self, seen: Observed) -> Tensor:
        import torch

        own, cross = (seen.sums[name].double().cpu() for name in ("own", "cross"))
        logs = LOWEST + STEP * (torch.arange(own.shape[1], dtype=torch.float64) + 0.5)
        sinks = torch.cat(
            [torch.tensor([NO_SINK], dtype=torch.float64), torch.arange(LOWEST, HIGHEST, STEP, dtype=torch.float64)]
        )
        kept = (logs - sinks[:, None]).sigmoid()
        errors = kept.square() @ own.T - 2 * kept @ cross.T
        # A sink for a gain that is rounding is none.
        gains = (errors[0] - errors.min(0).values) > ROUNDING * errors[0].abs()
        return torch.where(gains, sinks[errors.argmin(0)], sinks[0])
