"""What a part kind is: a frozen value that knows its tensors, what it costs, and how a plan shows it.

To add one, write one file beside this one, or put the class into the file of the action that brings it, and, for modules
of its own, one flat runtime file (see `lbdsl.model.hybrid`). Nothing else is edited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from lbdsl.layer.facts import ModelFacts


class Slot(StrEnum):
    """Where a part stands in a layer; the value is its name in a LayerSpec and the first word of its paths."""

    MIXER = "mixer"
    FFN = "ffn"
    WEIGHTS = "weights"


WORDS = {Slot.MIXER: "attention", Slot.FFN: "MLP"}
"""What a sub-block is called in messages."""

ROWS = {Slot.MIXER: "attn", Slot.FFN: "mlp", Slot.WEIGHTS: "bits"}
"""The row of a plan's picture that shows whether a part is there."""


@dataclass(frozen=True)
class TensorShape:
    """A parameter by its name below the layer, in the model's dtype."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def is_matrix(self) -> bool:
        """True for the weight of a linear map."""
        return len(self.shape) == 2


@dataclass(frozen=True)
class Mark:
    """How a layer stands in one row of a plan's picture: one character, what it means, and how layers with it are counted
    (`16 windowed`)."""

    row: str
    sign: str
    style: Literal["same", "change", "drop"]
    legend: str = ""
    counted: str = ""


class Value(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    def replace(self, **fields: Any) -> Self:
        """The same with other fields, checked as a new one is."""
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **fields})


class Part(Value):
    """Base of all part kinds. Fields are what differs from layer to layer; sizes that are one for the whole model, norms
    and biases are the family's, and come with `model`."""

    slot: ClassVar[Slot]

    runtime: ClassVar[Path | None] = None
    """The flat runtime file, which travels with saved weights; None for a kind that nothing computes yet."""

    kind: str
    """The tag, a `Literal` of the kind's name with that name as default."""

    @classmethod
    def kind_name(cls) -> str:
        return str(cls.model_fields["kind"].default)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        return tuple(name for name in cls.model_fields if name != "kind")

    def field_text(self, name: str) -> str:
        """A field's value as plans show it."""
        return str(getattr(self, name))

    def tensors(self, model: ModelFacts) -> tuple[TensorShape, ...]:
        """Its parameters, without the norms around it."""
        return ()

    def cache_bytes(self, model: ModelFacts, ctx: int) -> int:
        """Bytes of cache storage that one sequence of `ctx` tokens holds."""
        return 0

    def decode_flops(self, model: ModelFacts, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`, beyond two for each element of its matrices."""
        return 0

    def prefill_flops(self, model: ModelFacts, n: int) -> int:
        """FLOPs of a prefill of `n` tokens, beyond two for each token and element of its matrices."""
        return 0

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        """A mark for each row that shows something of it; `before` is what stood there in the base."""
        row = ROWS[self.slot]
        if self == before:
            return (Mark(row, "=", "same"),)
        return (Mark(row, "*", "change", self.kind, f"with {self.kind}"),)


class Storage(Part):
    """How one module's matrix is stored; a module without one is in the model's dtype."""

    slot: ClassVar[Slot] = Slot.WEIGHTS

    def stored_bytes(self, tensor: TensorShape, model: ModelFacts) -> int:
        """Bytes of the matrix and of what decoding it needs."""
        raise NotImplementedError
