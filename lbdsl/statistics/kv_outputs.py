"""Get keys and values from the outputs of a layer's projections, separate or fused with the queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.families.rows import QKV

if TYPE_CHECKING:
    from torch import Tensor

Which = Literal["k", "v"]


def projection(model: ModelFacts, of: Which) -> str:
    """The module that computes the keys or values."""
    return QKV if any(row.module == QKV for row in model.rows("attention")) else f"self_attn.{of}_proj"


def heads_of(output_BNE: Tensor, module: str, of: Which, kv_heads: int, head_dim: int) -> Tensor:
    """Keys or values by head, [tokens, kv_heads, head_dim], in float32."""
    size = kv_heads * head_dim
    stop = output_BNE.shape[-1] - (size if module == QKV and of == "k" else 0)
    return output_BNE[..., stop - size : stop].flatten(0, 1).unflatten(1, (kv_heads, head_dim)).float()
