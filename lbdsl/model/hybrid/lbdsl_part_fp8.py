"""Weights stored as 8-bit floats: a linear map whose weights are already s * q, and which may round its inputs to them; and
experts that stay as floats."""

import torch
from torch import nn

from .lbdsl_rounding import MOST, RoundedInputs, take_one_by_one, to_e4m3


class RoundedToFloats(RoundedInputs):
    """Row by row, numbers of E4M3 times the row's largest size / 448, computed in float32."""

    @staticmethod
    def rounding(inputs):
        wide = inputs.float()
        scales = (wide.abs().amax(-1, keepdim=True) / MOST).clamp(min=torch.finfo(torch.float32).tiny)
        return (to_e4m3(wide / scales).float() * scales).to(inputs.dtype)


class FloatExperts(nn.Module):
    """The matrices of all experts of a layer, [E, N, M], as floats and scales; an expert's are computed when they are asked
    for."""

    def __init__(self, like):
        super().__init__()
        self.weight = nn.Parameter(like.new_empty(like.shape, dtype=torch.float8_e4m3fn), requires_grad=False)
        self.weight_scale = nn.Parameter(like.new_empty(*like.shape[:-1], 1), requires_grad=False)

    def __getitem__(self, expert):
        scales = self.weight_scale[expert]
        return (self.weight[expert].float() * scales.float()).to(scales.dtype)


class Fp8Part:
    FIELDS = ("activations",)

    def wrap(self, linear, stored):
        """The map with the same parameters under the same names; with 8-bit activations it rounds its inputs."""
        if stored["activations"] == 8:
            linear.__class__ = RoundedToFloats
        return linear

    def hold_experts(self, experts, name, stored, packed):
        """Round what the tensor `name` of a layer's experts is multiplied with; if it is `packed`, have it as floats."""
        take_one_by_one(experts, name, RoundedToFloats.rounding, FloatExperts if packed else None)


PART = Fp8Part()
