"""`influence`: how much the attention sub-block, or a whole layer, changes the direction of the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbdsl.core.units import Unit
from lbdsl.metrics.base import ResidualMetric

if TYPE_CHECKING:
    import torch


class Influence(ResidualMetric):
    """1 - cosine of the residual stream before and after the attention sub-block, or with `influence(block)` the whole
    layer.

    What: 1 - cosine(x, x + Attn(norm(x))), or 1 - cosine(x, Layer(x)); near 0 where that part hardly changes the stream.
    One pass over the text measures all layers.
    Why: the cheapest score; `nll` and `kl` need a pass per layer.
    Example: `lowest 8 by influence drop`, `lowest 2 by influence(block) drop(block)`
    Source: LLM-Drop (arXiv 2406.15786) for the attention; ShortGPT's block influence (arXiv 2403.03853).
    """

    kind = "influence"
    unit = Unit.RATIO

    @staticmethod
    def per_token(before_ND: torch.Tensor, after_ND: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import cosine_similarity

        return 1.0 - cosine_similarity(before_ND, after_ND, dim=-1)
