"""Weights stored as integers: a linear map whose weights are already s * q, and which may round its inputs to 8 bits; and
experts that stay as integers."""

import torch
from torch import nn

from .lbdsl_rounding import RoundedInputs, take_one_by_one


class RoundedTo8Bits(RoundedInputs):
    """Row by row, whole numbers from -127 to 127 times the row's largest size / 127, computed in float32."""

    @staticmethod
    def rounding(inputs):
        wide = inputs.float()
        scales = (wide.abs().amax(-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return ((wide / scales).round() * scales).to(inputs.dtype)


class PackedExperts(nn.Module):
    """The matrices of all experts of a layer, [E, N, M], as integers in 32-bit words and scales; an expert's are computed
    when they are asked for."""

    def __init__(self, like, bits, group):
        super().__init__()
        self.bits = bits
        *rows, columns = like.shape
        words = torch.empty(*rows, columns * bits // 32, dtype=torch.int32, device=like.device)
        self.weight_packed = nn.Parameter(words, requires_grad=False)
        self.weight_scale = nn.Parameter(like.new_empty(*rows, columns // group), requires_grad=False)

    def __getitem__(self, expert):
        words, scales = self.weight_packed[expert], self.weight_scale[expert]
        shifts = torch.arange(0, 32, self.bits, dtype=torch.int32, device=words.device)
        integers = ((words.unsqueeze(-1) >> shifts) & (2**self.bits - 1)) - 2 ** (self.bits - 1)
        groups = integers.flatten(-2).float().unflatten(-1, (scales.shape[-1], -1))
        return (groups * scales.float().unsqueeze(-1)).flatten(-2).to(scales.dtype)


class IntPart:
    FIELDS = ("bits", "group", "activations", "method")

    def wrap(self, linear, stored):
        """The map with the same parameters under the same names; with 8-bit activations it rounds its inputs."""
        if stored["activations"] == 8:
            linear.__class__ = RoundedTo8Bits
        return linear

    def hold_experts(self, experts, name, stored, packed):
        """Have the tensor `name` of a layer's experts as integers, if it is `packed`."""
        if packed:
            take_one_by_one(experts, name, held=lambda like: PackedExperts(like, stored["bits"], stored["group"]))


PART = IntPart()
