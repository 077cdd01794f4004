"""What a statistic is: numbers of a layer of the base, from what goes through its modules on the calibration text.

To add one, write one file beside this one (or anywhere, see `lbdsl.core.registry`) with a subclass of `Statistic`; an
action's weights name it with `lbdsl.layer.weights.Stat`. torch is imported only inside the functions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Observed:
    """What one layer showed: `sums` are those of `add` over `tokens` tokens, `weights` gives a parameter by its name below
    the layer, of the `model`'s `layer`."""

    sums: dict[str, Tensor]
    tokens: int
    weights: Callable[[str], Tensor]
    layer: LayerSpec
    model: ModelFacts


class Statistic(BaseModel):
    """Base of all statistics. Fields are its arguments, those of the `Stat` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    kind: str
    """The tag, a `Literal` of the statistic's name with that name as default."""

    version: ClassVar[int] = 1
    """Raise it when the numbers change: those that are kept are then taken again."""

    @classmethod
    def kind_name(cls) -> str:
        return str(cls.model_fields["kind"].default)

    @abstractmethod
    def watched(self, layer: LayerSpec, model: ModelFacts) -> tuple[str, ...]:
        """The modules, by name below the layer, whose inputs and outputs `add` is given; none where weights are enough."""

    def add(self, sums: dict[str, Tensor], module: str, input_MD: Tensor, output_ME: Tensor) -> None:
        """Add to `sums` what M tokens gave to a watched module and got from it, in the dtype that the model computes in;
        sums should be in float32 or better, and stay on the device."""
        raise NotImplementedError

    @abstractmethod
    def value(self, seen: Observed) -> Tensor:
        """The statistic of a layer. It is kept in float32, and every number must be finite."""
