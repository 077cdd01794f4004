"""Weights as low-bit integers, with one scale per group of consecutive weights in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lbdsl.parts.base import Mark, Part, Storage, TensorShape

if TYPE_CHECKING:
    from lbdsl.layer.facts import ModelFacts

SCALE_BYTES = 2


class Int(Storage):
    """A matrix of `bits`-bit integers, with one 16-bit scale per `group` weights of a row; the activations have
    `activations` bits."""

    kind: Literal["int"] = "int"
    bits: Literal[2, 3, 4, 8]
    group: Annotated[int, Field(ge=8, le=65536)] = 128
    activations: Literal[16] = 16

    def stored_bytes(self, tensor: TensorShape, model: ModelFacts) -> int:
        rows, columns = tensor.shape
        return rows * (-(-columns * self.bits // 8) + -(-columns // self.group) * SCALE_BYTES)

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        return (Mark("bits", str(self.bits), "change", "digits: bits of a weight", "quantized"),)
