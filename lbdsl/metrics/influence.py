"""`influence`: how much the attention sub-block turns the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.metrics.base import ResidualMetric

if TYPE_CHECKING:
    import torch


class Influence(ResidualMetric):
    """1 - cosine(x, x + Attn(norm(x))) at the attention sub-block, without unit.

    What: near 0 where attention hardly changes the stream. One pass over the text serves all layers.
    Why: the cheapest score; `nll` and `kl` need a pass per layer.
    Example: `lowest 8 by influence drop`
    Source: LLM-Drop (arXiv 2406.15786).
    """

    kind = "influence"
    unit = "1"

    @staticmethod
    def per_token(before_ND: torch.Tensor, after_ND: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import cosine_similarity

        return 1.0 - cosine_similarity(before_ND, after_ND, dim=-1)
