"""Base classes of part kinds: frozen values that define their tensors, their costs, and their marks in a plan.

To add one, write one file in this folder (in a plug-in, it may stand in the file of its action) and, if it has its own
modules, one flat runtime file (see `lbdsl.model.hybrid`). Nothing else is edited.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "uint8": 1, "int8": 1, "int32": 4, "int64": 8}
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
class TensorRow:
    """One parameter of a family's layers. `dims` are names of sizes (see `ModelShape.shaped`), outermost first, as torch
    stores them.

    `gguf` is llama.cpp's name for it. `when` names a boolean field of the config that must be true for the parameter to
    exist; without it, the parameter always exists. `routes`: it is a router's matrix, which belongs to no linear module;
    `plain`: it is no linear map's matrix: a convolution's kernel, biases of experts, experts that are multiplied the other
    way round.
    `files`: its name in other checkpoints; with `{}`, the number along the first dimension, of which there is a tensor for
    each; several are joined along the next.
    """

    name: str
    gguf: str
    dims: tuple[str, ...]
    when: str | None = None
    routes: bool = False
    files: tuple[str, ...] = ()
    plain: bool = False

    @property
    def module(self) -> str:
        return _module(self.name, self.dims)


@dataclass(frozen=True)
class TensorShape:
    """A parameter in the model's dtype; its name is relative to the layer. The rest as in its TensorRow."""

    name: str
    shape: tuple[int, ...]
    routes: bool = False
    files: tuple[str, ...] = ()
    plain: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def module(self) -> str:
        return _module(self.name, self.shape)

    @property
    def is_matrix(self) -> bool:
        """True for the weight of a linear layer, and for those of a layer's experts, which are one tensor."""
        return len(self.shape) > 1 and not self.routes and not self.plain


def _module(name: str, dims: Sequence[object]) -> str:
    """The linear map that a parameter belongs to: its module, but of experts each tensor is a map, by its own name."""
    return name if len(dims) == 3 else name.rpartition(".")[0]


class ModelShape(Protocol):
    """What parts know of the model that they are in."""

    @property
    def hidden(self) -> int: ...

    @property
    def dtype(self) -> str:
        """By torch's name: what it runs and is saved in."""

    @property
    def dtype_bytes(self) -> int: ...

    @property
    def columns(self) -> frozenset[int]:
        """The sizes of rows of all matrices in the layers of the base."""

    def rows(self, kind: str) -> tuple[TensorRow, ...]:
        """The family's parameters of a kind of part, by name relative to the layer."""

    def norms(self, slot: Slot) -> tuple[TensorRow | None, TensorRow | None]:
        """The norms before and after a sub-block."""

    def shaped(self, rows: Iterable[TensorRow], sizes: Mapping[str, int]) -> tuple[TensorShape, ...]:
        """The parameters of `rows` that the configuration switches on; `sizes` are the part's own dimensions by name."""


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


class Window(Value):
    """The last `size` tokens, including the current one, and the first `sink_tokens` of the row that are not padding.

    With `sink_logits` the softmax's denominator has one more term, exp(s), with a learned s for each query head. The first
    `full_heads` KV heads, and their query heads, see all tokens instead, without sinks. Both are left out of the JSON where
    they have their defaults: artifacts that know nothing of them stay as they are.
    """

    size: Count
    sink_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    sink_logits: bool = False
    full_heads: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0

    @model_validator(mode="after")
    def _one_kind(self) -> Window:
        if self.sink_logits and self.sink_tokens:
            raise ValueError("a window has sink tokens or sink logits, not both")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = as_usual(self)
        return {name: value for name, value in fields.items() if value or name in ("size", "sink_tokens")}

    @property
    def held(self) -> int:
        """The maximum number of tokens that its heads attend to and cache."""
        return self.size + self.sink_tokens

    @property
    def beside(self) -> list[str]:
        """As text, what heads see but the window: `4 sinks` or `learned sinks`, `2 full heads`."""
        sinks = "learned sinks" if self.sink_logits else f"{self.sink_tokens} sinks" if self.sink_tokens else ""
        full = f"{self.full_heads} full head{'s' if self.full_heads > 1 else ''}" if self.full_heads else ""
        return [said for said in (sinks, full) if said]

    def __str__(self) -> str:
        return " + ".join([str(self.size), *self.beside])


class Part(Value):
    """Base of all part kinds. Fields are properties that can differ between layers; sizes of the whole model, norms and
    biases are defined by the family and come from `model`."""

    slot: ClassVar[Slot]

    runtime: ClassVar[Path | None] = None
    """The flat runtime file, which is saved with the weights; None for a kind that is not implemented yet."""

    changeable: ClassVar[frozenset[str]] = frozenset()
    """Its fields that lbdsl's own actions may change: they make its weights from the family's rows of tensors."""

    trained: ClassVar[Mapping[str, float]] = {}
    """Parameters of its own that every healing trains: by name relative to the layer, the factor of their learning rate."""

    healed: ClassVar[tuple[str, ...]] = ()
    """Its parameters beside linear maps that healing trains as it trains norms, by the ends of their names."""

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

    def dims(self) -> Mapping[str, int]:
        """Its sizes, by the names that rows of tensors use."""
        return {}

    @property
    def own_rows(self) -> tuple[TensorRow, ...]:
        """Its parameters that no family has by itself."""
        return ()

    def tensors(self, model: ModelShape) -> tuple[TensorShape, ...]:
        """The part's parameters, without the norms around it: the family's of its kind, and its own."""
        return self._tensors(model, self.kind)

    def _tensors(self, model: ModelShape, kind: str) -> tuple[TensorShape, ...]:
        """The family's of a kind of part, and its own that are not among them."""
        rows = model.rows(kind)
        own = (row for row in self.own_rows if row.name not in {each.name for each in rows})
        return model.shaped((*rows, *own), self.dims())

    def active(self, tensor: TensorShape) -> int:
        """Elements of a parameter that a token is multiplied with."""
        return tensor.elements if tensor.is_matrix else 0

    def output_module(self, model: ModelShape) -> str | None:
        """The linear module that gives the part's output (o_proj or down_proj), by name relative to the layer."""
        rows = model.rows(self.kind)
        return next((row.module for row in rows if len(row.dims) == 2 and row.dims[0] == "hidden"), None)

    @property
    def in_few_bits(self) -> str:
        """What it holds in fewer bits than the model's dtype, in words; "" without. Engines are timed with each apart."""
        return ""

    @property
    def sees(self) -> Window | None:
        """The window through which it sees the tokens before; None without one."""
        return None

    def seen(self, ctx: int) -> Mapping[int, int]:
        """What a new token is compared with after `ctx` tokens: by the number of tokens, the FLOPs of comparing it with one
        of them."""
        return {}

    def cache_bytes(self, model: ModelShape, ctx: int) -> int:
        """Bytes of cache for one sequence of `ctx` tokens."""
        return 0

    def decode_flops(self, model: ModelShape, ctx: int) -> int:
        """FLOPs of one decoded token at context `ctx`, in addition to two for each element of its matrices."""
        return sum(flops * seen for seen, flops in self.seen(ctx).items())

    def prefill_flops(self, model: ModelShape, n: int) -> int:
        """FLOPs of a prefill of `n` tokens, in addition to two for each token and element of its matrices."""
        return sum(flops * (2 * n * seen - seen * seen) // 2 for seen, flops in self.seen(n).items())

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        """The part's marks, one per row of the strip; `before` is the part in the base model."""
        row = ROWS[self.slot]
        if self == before:
            return (Mark(row, "=", "same"),)
        return (Mark(row, "*", "change", self.kind, f"with {self.kind}"),)


class Storage(Part):
    """The storage format of one module's matrix, or of those of a layer's experts; without one they are in the model's
    dtype.

    A kind that saves other tensors than the matrix defines `saved_tensors`, and has a `lbdsl.packing.Packing`. The PART of
    its runtime file gets the module with the matrix that these tensors mean, as `wrap(module, fields)`, and those of
    experts, if it stores them, as `hold_experts(experts, name, fields, packed)`.
    """

    slot: ClassVar[Slot] = Slot.WEIGHTS

    def fitted(self, model: ModelShape) -> Storage:
        """The format with fields that were left open set for a base model."""
        return self

    def misfit(self, tensor: TensorShape) -> tuple[str, str] | None:
        """Why it cannot hold a matrix, or those of a layer's experts, and what to do about it; None if it can."""
        return (f"`{self.kind}` does not store experts", "leave them out") if len(tensor.shape) == 3 else None

    def saved_tensors(self, tensor: TensorShape, model: ModelShape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The dtype (by torch's name) and the shape of each saved tensor, by name relative to the module."""
        return {"weight": (model.dtype, tensor.shape)}

    @property
    def scheme(self) -> Mapping[str, Any] | None:
        """How compressed-tensors reads it: the fields of a group in `quantization_config`; None where it cannot."""
        return None

    def statistic(self, columns: int) -> tuple[str, tuple[int, ...]] | None:
        """The kind of the statistic that it is made with, of the inputs of a linear map's `columns`, and its shape."""
        return None

    @property
    def needs_largest(self) -> bool:
        """Whether it is made with the largest weight of the matrices in its module's parent that are stored alike."""
        return False

    @property
    def packs(self) -> bool:
        """Whether it saves other tensors than the matrix."""
        return type(self).saved_tensors is not Storage.saved_tensors

    @property
    def in_few_bits(self) -> str:
        return self.text() if self.packs else ""

    def stored_bytes(self, tensor: TensorShape, model: ModelShape) -> int:
        """Bytes of the saved tensors."""
        return sum(BYTES[dtype] * math.prod(shape) for dtype, shape in self.saved_tensors(tensor, model).values())
