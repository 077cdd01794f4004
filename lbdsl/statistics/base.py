"""Base class of statistics: a tensor for a layer of the base, from its modules' inputs and outputs on calibration text.

To add one, write one file beside this one (or anywhere, see `lbdsl.core.registry`) with a subclass of `Statistic`; an
action's weights name it with `lbdsl.layer.weights.Stat`. torch is imported only inside the functions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Observed:
    """The observations of one layer: `sums` are those of `add` over `tokens` tokens; `weights` returns a parameter by its
    name relative to the layer; `layer` is the layer's specification."""

    sums: dict[str, Tensor]
    tokens: int
    weights: Callable[[str], Tensor]
    layer: LayerSpec
    model: ModelFacts


@dataclass(frozen=True)
class Attended:
    """One forward of a layer's attention for B sequences of N tokens, without padding: queries, keys and values as they are
    multiplied (after rotary embeddings and norms), the output of each query head, the factor of the scores, and
    what they are capped at."""

    query_BHND: Tensor
    key_BGND: Tensor
    value_BGND: Tensor
    output_BNHD: Tensor
    scaling: float
    softcap: float | None = None


@dataclass(frozen=True)
class Routed:
    """One forward of a layer's `experts` for T tokens: what they are given, the K experts of each token and the gates with
    which their outputs are added. `output` computes one expert, by number, for some tokens."""

    experts: int
    hidden_TD: Tensor
    index_TK: Tensor
    weights_TK: Tensor
    output: Callable[[int, Tensor], Tensor]


class Statistic(BaseModel):
    """Base of all statistics. Fields are its arguments, the same as in the `Stat` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    kind: str
    """The tag, a `Literal` of the statistic's name with that name as default."""

    version: ClassVar[int] = 1
    """Increase it when the numbers change: cached values are then recomputed."""

    @abstractmethod
    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        """The modules, by name relative to the layer, whose inputs and outputs `add` gets; () if only weights are used."""

    def add(self, sums: dict[str, Tensor], module: str, input_BND: Tensor, output_BNE: Tensor) -> None:
        """Add the inputs and outputs of a watched module for B sequences of N tokens, in the model's compute dtype, to
        `sums`; sums should be in float32 or better, and stay on the device."""
        raise NotImplementedError

    def add_attention(self, sums: dict[str, Tensor], seen: Attended, weights: Callable[[str], Tensor]) -> None:
        """Add a forward of the layer's attention to `sums`; for statistics that define it. `weights` as in Observed."""
        raise NotImplementedError

    def add_experts(self, sums: dict[str, Tensor], seen: Routed) -> None:
        """Add a forward of the layer's experts to `sums`; for statistics that define it."""
        raise NotImplementedError

    @classmethod
    def watches_attention(cls) -> bool:
        return cls.add_attention is not Statistic.add_attention

    @classmethod
    def watches_experts(cls) -> bool:
        return cls.add_experts is not Statistic.add_experts

    @abstractmethod
    def value(self, seen: Observed) -> Tensor:
        """The statistic of a layer. It is stored in float32, and every value must be finite."""
