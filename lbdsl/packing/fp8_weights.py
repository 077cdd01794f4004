"""8-bit floats with a scale for each row, rounded to nearest, as compressed-tensors stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from lbdsl.packing.base import Packing
from lbdsl.parts.fp8_weights import MOST, Fp8

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 512
"""Rows that are computed at a time, so that large matrices take little memory."""


class Fp8Packing(Packing):
    """A scale is the largest weight of its row over 448, in the model's dtype. Where that rounds down, the largest weights
    would be beyond 448, and saturate: by 0.4 % in bfloat16, less than half a step of the floats."""

    kind: ClassVar[str] = "fp8"

    @staticmethod
    def pack(stored: Fp8, weight: Tensor, inputs: Tensor | None = None) -> dict[str, Tensor]:
        import torch

        whole = weight.detach().to("cpu")
        numbers, scales = [], []
        for part in whole.split(ROWS):
            largest = part.float().abs().amax(-1, keepdim=True)
            scales.append((largest / MOST).to(whole.dtype).clamp_(min=torch.finfo(whole.dtype).tiny))
            scaled = part.float() / scales[-1].float()
            numbers.append(scaled.clamp_(-MOST, MOST).to(torch.float8_e4m3fn))
        return {"weight": torch.cat(numbers), "weight_scale": torch.cat(scales)}

    @staticmethod
    def unpack(stored: Fp8, tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        numbers, scales = tensors["weight"], tensors["weight_scale"]
        # 4 bits times those of a scale: exact in float32, or rounded once to the model's dtype.
        parts = zip(numbers.split(ROWS), scales.split(ROWS), strict=True)
        return torch.cat([(part.float() * each.float()).to(scales.dtype) for part, each in parts])
