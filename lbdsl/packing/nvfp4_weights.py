"""4-bit floats with scales, rounded to nearest, as compressed-tensors stores them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from lbdsl.packing.base import Packing
from lbdsl.parts.fp8_weights import MOST
from lbdsl.parts.nvfp4_weights import GROUP, NUMBERS, Nvfp4

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 512
"""Rows that are computed at a time, so that large matrices take little memory."""
LEAST = 2.0**-9
"""The smallest number over 0 of a scale's 8 bits."""


class Nvfp4Packing(Packing):
    """A scale is the largest weight of its group over 6, times g, so that the largest of all is 448; of two numbers that
    are as near the one with the even last bit is taken. The first of two weights is in the lower bits. For inputs g is the
    power of two that makes their largest 1024 to 2048, so that every dtype has it; 2688 saturates."""

    kind: ClassVar[str] = "nvfp4"

    @staticmethod
    def pack(
        stored: Nvfp4, weight: Tensor, inputs: Tensor | None = None, largest: float | None = None
    ) -> dict[str, Tensor]:
        import torch

        whole = weight.detach().to("cpu")
        most = float(whole.abs().max()) if largest is None else largest
        overall = torch.tensor([MOST * NUMBERS[-1] / most if most > 0 else 1.0])
        middles = torch.tensor([(low + high) / 2 for low, high in itertools.pairwise(NUMBERS)])
        packed, scales = [], []
        for part in whole.split(ROWS):
            groups = part.float().unflatten(1, (-1, GROUP))
            scale = (groups.abs().amax(-1) / NUMBERS[-1] * overall).clamp(LEAST, MOST).to(torch.float8_e4m3fn)
            sizes = groups.abs() / (scale.float() / overall).unsqueeze(-1)
            # Above a middle the next number; on one, that whose place is even.
            codes = torch.bucketize(sizes, middles)
            on = (sizes.unsqueeze(-1) == middles).any(-1)
            codes += (on & (codes % 2 == 1)).long()
            codes = (codes + 8 * (groups < 0)).flatten(1)
            packed.append((codes[:, ::2] + 16 * codes[:, 1::2]).to(torch.uint8))
            scales.append(scale)
        found = {"weight_packed": torch.cat(packed), "weight_scale": torch.cat(scales), "weight_global_scale": overall}
        if inputs is None:
            return found
        return {**found, "input_global_scale": torch.ldexp(torch.ones(1), 11 - torch.frexp(inputs.to("cpu"))[1])}

    @staticmethod
    def unpack(stored: Nvfp4, tensors: Mapping[str, Tensor]) -> Tensor:
        """In float32: no saved tensor has the model's dtype."""
        import torch

        numbers, overall = torch.tensor([*NUMBERS, *(-number for number in NUMBERS)]), tensors["weight_global_scale"]
        parts = []
        for packed, scale in zip(tensors["weight_packed"].split(ROWS), tensors["weight_scale"].split(ROWS), strict=True):
            codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).long()
            groups = numbers[codes].unflatten(1, (-1, GROUP))
            parts.append((groups * (scale.float() / overall).unsqueeze(-1)).flatten(1))
        return torch.cat(parts)
