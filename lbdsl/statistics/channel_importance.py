"""`channel_importance`: how much each channel of a gated MLP contributes to the MLP's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.statistics.base import Observed, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class ChannelImportance(Statistic):
    """Shape [width]: the mean of |input of down_proj| over the tokens, times the norm of the channel's down_proj column."""

    kind: Literal["channel_importance"] = "channel_importance"

    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        return (down_of(model),)

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        add_sizes(sums, input_BND.float().flatten(0, 1))

    def value(self, seen: Observed) -> Tensor:
        return importance(seen)


def down_of(model: ModelFacts) -> str:
    """The module of the family's MLP whose inputs are the channels (down_proj), by name relative to the layer."""
    return next(row.module for row in model.rows("gated_mlp") if row.dims == ("hidden", "intermediate"))


def add_sizes(sums: dict[str, Tensor], input_MD: Tensor) -> None:
    """Add the sums that `importance` needs, for M tokens."""
    sums["sizes"] = sums.get("sizes", 0) + input_MD.abs().sum(0)


def importance(seen: Observed) -> Tensor:
    """The importance in float32 on the CPU, as it is stored, so that the same channels are chosen from the stored value."""
    columns = seen.weights(f"{down_of(seen.model)}.weight").to("cpu").double().norm(dim=0)
    return (seen.sums["sizes"].to("cpu").double() / seen.tokens * columns).float()
