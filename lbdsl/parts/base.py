"""Base classes of part kinds: frozen values that define their tensors, their costs, and their marks in a plan.

To add one, write one file in this folder, or put the class into the file of the action that uses it, and, if it has its
own modules, one flat runtime file (see `lbdsl.model.hybrid`). Nothing else is edited.
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


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int32": 4, "int64": 8}
"""Bytes of an element, by torch's name of its dtype."""


class Slot(StrEnum):
    """The position of a part in a layer; the value is its name in a LayerSpec and the first component of its paths."""

    MIXER = "mixer"
    FFN = "ffn"
    WEIGHTS = "weights"


WORDS = {Slot.MIXER: "attention", Slot.FFN: "MLP"}
"""The names of the sub-blocks in messages."""

ROWS = {Slot.MIXER: "attn", Slot.FFN: "mlp", Slot.WEIGHTS: "bits"}
"""The row of a plan's layer strip that shows whether a layer has the part."""


@dataclass(frozen=True)
class TensorShape:
    """A parameter in the model's dtype; its name is relative to the layer."""

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
        """True for the weight of a linear layer."""
        return len(self.shape) == 2


@dataclass(frozen=True)
class Mark:
    """A layer's mark in one row of a plan's layer strip: one character, its meaning, and the text for counting layers with
    it (`16 windowed`)."""

    row: str
    sign: str
    style: Literal["same", "change", "drop"]
    legend: str = ""
    counted: str = ""


class Value(BaseModel):
    """A frozen value; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    def replace(self, **fields: Any) -> Self:
        """A validated copy with some fields replaced."""
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **fields})


class Part(Value):
    """Base of all part kinds. Fields are properties that can differ between layers; sizes of the whole model, norms and
    biases are defined by the family and come from `model`."""

    slot: ClassVar[Slot]

    runtime: ClassVar[Path | None] = None
    """The flat runtime file, which is saved with the weights; None for a kind that is not implemented yet."""

    changeable: ClassVar[frozenset[str]] = frozenset()
    """Its fields that lbdsl's own actions may change: they make its weights from the family's rows of tensors."""

    kind: str
    """The tag, a `Literal` of the kind's name with that name as default."""

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        return tuple(name for name in cls.model_fields if name != "kind")

    def field_text(self, name: str) -> str:
        """A field's value as text in plans."""
        return str(getattr(self, name))

    def text(self) -> str:
        """The part in words of a plan: its kind and the fields that differ from their defaults."""
        shown = [name for name in self.field_names() if getattr(self, name) != type(self).model_fields[name].default]
        fields = ", ".join(f"{name}={self.field_text(name)}" for name in shown)
        return f"{self.kind}({fields})" if fields else self.kind

    def tensors(self, model: ModelFacts) -> tuple[TensorShape, ...]:
        """The part's parameters, without the norms around it."""
        return ()

    def cache_bytes(self, model: ModelFacts, ctx: int) -> int:
        """Bytes of cache for one sequence of `ctx` tokens."""
        return 0

    def decode_flops(self, model: ModelFacts, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`, in addition to two for each element of its matrices."""
        return 0

    def prefill_flops(self, model: ModelFacts, n: int) -> int:
        """FLOPs of a prefill of `n` tokens, in addition to two for each token and element of its matrices."""
        return 0

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        """The part's marks, one per row of the strip; `before` is the part in the base model."""
        row = ROWS[self.slot]
        if self == before:
            return (Mark(row, "=", "same"),)
        return (Mark(row, "*", "change", self.kind, f"with {self.kind}"),)


class Storage(Part):
    """The storage format of one module's matrix; a module without one is in the model's dtype.

    A kind that saves other tensors than the matrix defines `saved_tensors`, and has a `lbdsl.packing.Packing`. Its runtime
    file gets the module with the matrix that these tensors mean.
    """

    slot: ClassVar[Slot] = Slot.WEIGHTS

    def fitted(self, model: ModelFacts) -> Storage:
        """The format with fields that were left open set for a base model."""
        return self

    def misfit(self, tensor: TensorShape) -> tuple[str, str] | None:
        """Why it cannot hold a matrix, and what to do about it; None if it can."""
        return None

    def saved_tensors(self, tensor: TensorShape, model: ModelFacts) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The dtype (by torch's name) and the shape of each saved tensor, by name relative to the module."""
        return {"weight": (model.dtype, tensor.shape)}

    @property
    def needs_gram(self) -> bool:
        """Whether it is made with the Gram matrix of the module's inputs."""
        return False

    @property
    def packs(self) -> bool:
        """Whether it saves other tensors than the matrix."""
        return type(self).saved_tensors is not Storage.saved_tensors

    def stored_bytes(self, tensor: TensorShape, model: ModelFacts) -> int:
        """Bytes of the saved tensors."""
        return sum(BYTES[dtype] * math.prod(shape) for dtype, shape in self.saved_tensors(tensor, model).values())
