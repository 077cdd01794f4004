"""Weights as low-bit integers with a scale for each group of a row, in the format of compressed-tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from lbdsl.parts.base import Mark, ModelShape, Part, Storage, TensorShape

STEP = 32
"""Groups are multiples of this, the block of GGUF's Q4_0 and Q8_0 and the smallest that integer kernels read."""

PACKED, INTEGERS = "pack-quantized", "int-quantized"
"""compressed-tensors' formats."""

MIN_SCALE = 2.0**-14
"""The smallest normal number of float16, the type of scales in GGUF."""


def _group(value: Any) -> int | str:
    if value != "auto" and (type(value) is not int or value < STEP or value % STEP):
        raise PydanticCustomError("group", f"must be a multiple of {STEP}, or `auto`")
    return value


def _numbers(bits: int) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True}


_GROUP_SCHEMA = {"anyOf": [{"type": "integer", "minimum": STEP, "multipleOf": STEP}, {"const": "auto"}]}
Group = Annotated[int | Literal["auto"], PlainValidator(_group), WithJsonSchema(_GROUP_SCHEMA)]


class Int(Storage):
    """A matrix of `bits`-bit integers q and scales s, whose elements are s * q.

    There is one scale for each `group` of consecutive weights in a row, or for each whole `row`; a group of `auto` is open
    until the model's sizes are known. With 8-bit `activations` each token's inputs are rounded to 8 bits, too, by the
    largest of them. `method` is how the integers are found: rounded to nearest (rtn), or with error feedback (gptq).
    """

    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_int.py"
    kind: Literal["int"] = "int"
    bits: Literal[4, 8]
    group: Group | Literal["row"]
    activations: Literal[16, 8] = 16
    method: Literal["rtn", "gptq"] = "rtn"

    @model_validator(mode="after")
    def _known(self) -> Int:
        if (self.activations == 8) != (self.group == "row") or self.bits < self.activations == 8:
            raise ValueError("8-bit activations go with 8-bit weights that have one scale for each row")
        return self

    def text(self) -> str:
        form = f"W{self.bits}A{self.activations}"
        groups = "" if self.group == "row" else f", groups of {self.group}"
        return form + groups + (", gptq" if self.method == "gptq" else "")

    def statistic(self, columns: int) -> tuple[str, tuple[int, ...]] | None:
        return ("input_gram", (columns, columns)) if self.method == "gptq" else None

    @property
    def most(self) -> int:
        """The largest integer; the smallest is its negative."""
        return int(2 ** (self.bits - 1) - 1)

    def fitted(self, model: ModelShape) -> Int:
        if self.group != "auto":
            return self
        fits = (size for size in (4 * STEP, 2 * STEP) if all(count % size == 0 for count in model.columns))
        return self.replace(group=next(fits, STEP))

    def misfit(self, tensor: TensorShape) -> tuple[str, str] | None:
        if len(tensor.shape) == 3 and self.activations == 8:
            help = 'write `modules "*.experts.*" quantize(bits=8)` before, or `quantize(form=fp8)`'
            return "the inputs of experts are not rounded to integers", help
        if len(tensor.shape) == 3 and self.method == "gptq":
            return "gptq would need the inputs of each expert", "write `method=rtn` for them"
        columns = tensor.shape[-1]
        size = STEP if isinstance(self.group, str) else self.group
        if columns % size == 0:
            return None
        fits = next((fit for fit in (4 * STEP, 2 * STEP, STEP) if columns % fit == 0), None)
        help = f"write `group={fits}`" if fits else "leave them out"
        return f"rows of {columns} weights do not divide into groups of {size}", help

    def saved_tensors(self, tensor: TensorShape, model: ModelShape) -> dict[str, tuple[str, tuple[int, ...]]]:
        *rows, columns = tensor.shape
        scales = (model.dtype, (*rows, 1 if isinstance(self.group, str) else columns // self.group))
        if self.activations == 8:
            return {"weight": ("int8", tensor.shape), "weight_scale": scales}
        packed = {"weight_packed": ("int32", (*rows, -(-columns * self.bits // 32))), "weight_scale": scales}
        # Of experts the format has one for each, which tells nothing that the words do not.
        return packed if len(rows) == 2 else {**packed, "weight_shape": ("int64", (2,))}

    @property
    def scheme(self) -> Mapping[str, Any]:
        one_a_row = self.group == "row"
        weights = {
            **_numbers(self.bits),
            "strategy": "channel" if one_a_row else "group",
            "group_size": None if one_a_row else self.group,
            "dynamic": False,
        }
        inputs = {**_numbers(8), "strategy": "token", "group_size": None, "dynamic": True}
        return {
            "weights": weights,
            "input_activations": inputs if self.activations == 8 else None,
            "output_activations": None,
            "format": INTEGERS if self.activations == 8 else PACKED,
        }

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        return (Mark("bits", str(self.bits), "change", "digits: bits of a weight", "quantized"),)
