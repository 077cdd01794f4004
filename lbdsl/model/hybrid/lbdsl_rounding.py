"""Rounding through which gradients pass unchanged; linear maps that round their inputs; numbers of E4M3."""

import torch
from torch import nn

MOST = 448.0
"""The largest number of E4M3."""


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, to):
        return to(states)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def rounded(states, to):
    """`to(states)`; gradients pass unchanged."""
    return _Straight.apply(states, to)


def to_e4m3(states):
    """To the nearest numbers of E4M3; what lies beyond becomes the largest, for there is no infinity."""
    return states.clamp(-MOST, MOST).to(torch.float8_e4m3fn)


class RoundedInputs(nn.Linear):
    """A linear map that rounds its inputs, [..., D], by `rounding`; once compressed-tensors has prepared the module, it
    does so instead."""

    rounding = None

    def forward(self, inputs):
        if getattr(self, "quantization_scheme", None) is None:
            inputs = rounded(inputs, self.rounding)
        return super().forward(inputs)
