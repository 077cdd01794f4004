"""Weights as 8-bit floats with a scale for each row, in the format of compressed-tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from lbdsl.parts.base import Mark, ModelShape, Part, Storage, TensorShape

FLOATS = "float-quantized"
"""compressed-tensors' format."""

MOST = 448.0
"""The largest number of E4M3."""

_NUMBERS: Mapping[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}


class Fp8(Storage):
    """A matrix of 8-bit floats q (E4M3: a sign, 4 bits of exponent, 3 of mantissa) and a scale s for each row, whose
    elements are s * q.

    With 8-bit `activations` each token's inputs are rounded to the same floats, by the largest of them.
    Source: FP8 formats (arXiv 2209.05433), E4M3 without infinities.
    """

    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_fp8.py"
    kind: Literal["fp8"] = "fp8"
    activations: Literal[16, 8] = 8

    def text(self) -> str:
        return f"FP8 W8A{self.activations}"

    def misfit(self, tensor: TensorShape) -> tuple[str, str] | None:
        if len(tensor.shape) == 3 and self.activations == 16:
            return "no engine has experts of 8-bit floats with 16-bit inputs", "leave `activations` out"
        return None

    def saved_tensors(self, tensor: TensorShape, model: ModelShape) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"weight": ("float8_e4m3fn", tensor.shape), "weight_scale": (model.dtype, (*tensor.shape[:-1], 1))}

    @property
    def scheme(self) -> Mapping[str, Any]:
        inputs = {**_NUMBERS, "strategy": "token", "dynamic": True}
        return {
            "weights": {**_NUMBERS, "strategy": "channel", "dynamic": False},
            "input_activations": inputs if self.activations == 8 else None,
            "output_activations": None,
            "format": FLOATS,
        }

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        return (Mark("bits", "f", "change", "weights of 8-bit floats", "quantized"),)
