"""`expert_importance`: how much each expert of a layer matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Routed, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class ExpertImportance(Statistic):
    """[experts]: with `reap` the mean of gate times norm of output over the tokens that are routed to an expert, with
    `norm` the sum of the norms, with `frequency` the number of the tokens; 0 for an expert without any.

    Source: REAP (arXiv 2510.13999), which calls `norm` EAN.
    """

    kind: Literal["expert_importance"] = "expert_importance"
    method: Literal["reap", "frequency", "norm"]

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return ()

    def add_experts(self, sums: dict[str, Tensor], seen: Routed) -> None:
        if not sums:
            nothing = seen.weights_TK.new_zeros(seen.experts).double()
            sums |= {"tokens": nothing, "sum": nothing.clone()}
        for expert in seen.index_TK.unique().tolist():
            token, place = (seen.index_TK == expert).nonzero(as_tuple=True)
            sums["tokens"][expert] += len(token)
            if self.method != "frequency":
                norms = seen.output(expert, seen.hidden_TD[token]).double().norm(dim=-1)
                sums["sum"][expert] += (norms if self.method == "norm" else norms * seen.weights_TK[token, place]).sum()

    def value(self, seen: Observed) -> Tensor:
        tokens, sums = seen.sums["tokens"], seen.sums["sum"]
        return {"frequency": tokens, "norm": sums, "reap": sums / tokens.clamp(min=1)}[self.method]
