"""Weights stored as integers: a linear map whose weights are already s * q, and which may round its inputs to 8 bits."""

import torch
from torch import nn


class RoundedInputs(nn.Linear):
    """A linear map that rounds the inputs of each token to 8 bits; once compressed-tensors has prepared the module, it
    does so instead."""

    def forward(self, inputs):
        if getattr(self, "quantization_scheme", None) is None:
            inputs = _Rounded.apply(inputs)
        return super().forward(inputs)


class _Rounded(torch.autograd.Function):
    """[..., D] to [..., D]: row by row, whole numbers from -127 to 127 times the row's largest size / 127, computed in
    float32. Gradients pass unchanged."""

    @staticmethod
    def forward(ctx, inputs):
        wide = inputs.float()
        scales = (wide.abs().amax(-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return ((wide / scales).round() * scales).to(inputs.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class IntPart:
    FIELDS = ("bits", "group", "activations", "method")

    def wrap(self, linear, stored):
        """The map with the same parameters under the same names; with 8-bit activations it rounds its inputs."""
        if stored["activations"] == 8:
            linear.__class__ = RoundedInputs
        return linear


PART = IntPart()
