"""Weights as 4-bit floats with a scale of 8 bits for each group of 16, in the format of compressed-tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from lbdsl.parts.base import Mark, ModelShape, Part, Storage, TensorShape

GROUP = 16
NUMBERS = 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0
"""The numbers of E2M1 from 0, in the order of their bits."""


class Nvfp4(Storage):
    """A matrix of 4-bit floats q (E2M1: a sign, 2 bits of exponent, one of mantissa), a scale s of 8 bits (E4M3) for each
    16 of a row, and one number g for the matrix and those beside it, whose elements are s * q / g.

    The matrices of an attention or an MLP have one g, for engines compute some of them as one. With 4-bit `activations`
    inputs are rounded to the same floats, with a scale for each 16 of a token, and one number g for all tokens.
    Source: NVIDIA's NVFP4, as compressed-tensors has it.
    """

    runtime: ClassVar[Path | None] = Path(__file__).parents[1] / "model" / "hybrid" / "lbdsl_part_nvfp4.py"
    kind: Literal["nvfp4"] = "nvfp4"
    activations: Literal[16, 4] = 16

    def text(self) -> str:
        return f"NVFP4 W4A{self.activations}"

    def statistic(self, columns: int) -> tuple[str, tuple[int, ...]] | None:
        return ("input_largest", (1,)) if self.activations == 4 else None

    @property
    def needs_largest(self) -> bool:
        return True

    def misfit(self, tensor: TensorShape) -> tuple[str, str] | None:
        if len(tensor.shape) == 3:
            return "experts are not stored as 4-bit floats", 'write `modules "*.experts.*" quantize(bits=4)` before'
        if tensor.shape[-1] % GROUP:
            return f"rows of {tensor.shape[-1]} weights do not divide into groups of {GROUP}", "leave them out"
        return None

    def saved_tensors(self, tensor: TensorShape, model: ModelShape) -> dict[str, tuple[str, tuple[int, ...]]]:
        rows, columns = tensor.shape
        inputs = {"input_global_scale": ("float32", (1,))} if self.activations == 4 else {}
        return {
            "weight_packed": ("uint8", (rows, columns // 2)),
            "weight_scale": ("float8_e4m3fn", (rows, columns // GROUP)),
            "weight_global_scale": ("float32", (1,)),
            **inputs,
        }

    @property
    def scheme(self) -> Mapping[str, Any]:
        floats: dict[str, Any] = {
            "num_bits": 4,
            "type": "float",
            "symmetric": True,
            "strategy": "tensor_group",
            "group_size": GROUP,
            "scale_dtype": "torch.float8_e4m3fn",
        }
        return {
            "weights": {**floats, "dynamic": False},
            "input_activations": {**floats, "dynamic": "local"} if self.activations == 4 else None,
            "output_activations": None,
            "format": "nvfp4-pack-quantized",
        }

    def marks(self, before: Part | None) -> tuple[Mark, ...]:
        return (Mark("bits", "n", "change", "weights of 4-bit floats", "quantized"),)
