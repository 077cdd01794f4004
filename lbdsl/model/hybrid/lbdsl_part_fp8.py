"""Weights stored as 8-bit floats: a linear map whose weights are already s * q, and which may round its inputs to them."""

import torch

from .lbdsl_rounding import MOST, RoundedInputs, to_e4m3


class RoundedToFloats(RoundedInputs):
    """Row by row, numbers of E4M3 times the row's largest size / 448, computed in float32."""

    @staticmethod
    def rounding(inputs):
        wide = inputs.float()
        scales = (wide.abs().amax(-1, keepdim=True) / MOST).clamp(min=torch.finfo(torch.float32).tiny)
        return (to_e4m3(wide / scales).float() * scales).to(inputs.dtype)


class Fp8Part:
    FIELDS = ("activations",)

    def wrap(self, linear, stored):
        """The map with the same parameters under the same names; with 8-bit activations it rounds its inputs."""
        if stored["activations"] == 8:
            linear.__class__ = RoundedToFloats
        return linear


PART = Fp8Part()
