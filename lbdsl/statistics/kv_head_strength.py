"""`kv_head_strength`: the importance of each KV head's values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic
from lbdsl.statistics.kv_outputs import heads_of, projection

if TYPE_CHECKING:
    from torch import Tensor


class KVHeadStrength(Statistic):
    """[kv_heads]: the mean norm of a KV head's values over the text, times the Frobenius norm of the o_proj columns of the
    query heads that use it."""

    kind: Literal["kv_head_strength"] = "kv_head_strength"
    kv_heads: int
    head_dim: int

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (projection(model, "v"),)

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        found = heads_of(output_BNE, module, "v", self.kv_heads, self.head_dim).norm(dim=-1).sum(0)
        sums["lengths"] = sums["lengths"] + found if "lengths" in sums else found

    def value(self, seen: Observed) -> Tensor:
        columns = seen.weights("self_attn.o_proj.weight").double().cpu().unflatten(1, (self.kv_heads, -1))
        return seen.sums["lengths"].double().cpu() / seen.tokens * columns.norm(dim=(0, 2))
