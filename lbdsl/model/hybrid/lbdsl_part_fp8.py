"""Weights stored as 8-bit floats: a linear map whose weights are already s * q, and which may round its inputs to them."""

import torch
from torch import nn

MOST = 448.0


class RoundedInputs(nn.Linear):
    """A linear map that rounds the inputs of each token to 8-bit floats; once compressed-tensors has prepared the module,
    it does so instead."""

    def forward(self, inputs):
        if getattr(self, "quantization_scheme", None) is None:
            inputs = _Rounded.apply(inputs)
        return super().forward(inputs)


class _Rounded(torch.autograd.Function):
    """[..., D] to [..., D]: row by row, numbers of E4M3 times the row's largest size / 448, computed in float32. Gradients
    pass unchanged."""

    @staticmethod
    def forward(ctx, inputs):
        wide = inputs.float()
        scales = (wide.abs().amax(-1, keepdim=True) / MOST).clamp(min=torch.finfo(torch.float32).tiny)
        numbers = (wide / scales).clamp(-MOST, MOST).to(torch.float8_e4m3fn)
        return (numbers.float() * scales).to(inputs.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Fp8Part:
    FIELDS = ("activations",)

    def wrap(self, linear, stored):
        """The map with the same parameters under the same names; with 8-bit activations it rounds its inputs."""
        if stored["activations"] == 8:
            linear.__class__ = RoundedInputs
        return linear


PART = Fp8Part()
