"""`window_harm`: what a window would change of a layer's output, for each KV head alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Attended, Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor

SCORES = 2**26
"""Scores that are in memory at once."""


class WindowHarm(Statistic):
    """Shape [kv_heads]: the mean squared change of the attention's output over all tokens, if the query heads of this KV
    head alone see `window` tokens and the first `sinks`."""

    kind: Literal["window_harm"] = "window_harm"
    version: ClassVar[int] = 2
    window: int
    sinks: int

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return ()

    def add_attention(self, sums: dict[str, Tensor], seen: Attended, weights: Callable[[str], Tensor]) -> None:
        import torch

        batch, heads, length, _ = seen.query_BHND.shape
        groups = seen.key_BGND.shape[1]
        projection_EGC = weights("self_attn.o_proj.weight").float().unflatten(1, (groups, -1))
        if not sums:
            sums["harm"] = projection_EGC.new_zeros(groups, dtype=torch.float64)
        key, value = (states.float().repeat_interleave(heads // groups, 1) for states in (seen.key_BGND, seen.value_BGND))
        column_K = torch.arange(length, device=key.device)
        rows = max(1, SCORES // (batch * heads * length))
        for start in range(0, length, rows):
            query_Q1 = column_K[start : start + rows, None]
            scores = seen.query_BHND[:, :, start : start + rows].float() @ key.mT * seen.scaling
            if seen.softcap is not None:
                scores = seen.softcap * torch.tanh(scores / seen.softcap)
            near = (column_K > query_Q1 - self.window) | (column_K < self.sinks)
            windowed = scores.masked_fill(~(near & (column_K <= query_Q1)), -torch.inf).softmax(-1) @ value
            change_BQHD = seen.output_BNHD[:, start : start + rows].float() - windowed.transpose(1, 2)
            change_BQGC = change_BQHD.unflatten(2, (groups, -1)).flatten(3)
            sums["harm"] += torch.einsum("bqgc,egc->bqge", change_BQGC, projection_EGC).square().sum((0, 1, 3)).double()

    def value(self, seen: Observed) -> Tensor:
        return seen.sums["harm"] / seen.tokens
