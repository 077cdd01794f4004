"""Weights stored as 4-bit floats: a linear map whose weights are already s * q / g, and which may round its inputs."""

import torch

from .lbdsl_rounding import RoundedInputs, to_e4m3

GROUP = 16
LEAST = 2.0**-9
"""The smallest number over 0 of a scale."""


class RoundedTo4Bits(RoundedInputs):
    """Group by group of a row, numbers of E2M1 times a scale of E4M3, that of the group's largest size / 6, computed in
    float32. `input_global_scale` is 0 while it is open: then it is as if it had been taken on these inputs. Reciprocals are
    multiplied with, as kernels do: inputs in 16 bits often lie in the middle of two numbers, where it decides."""

    def rounding(self, inputs):
        groups = inputs.float().unflatten(-1, (-1, GROUP))
        largest = groups.abs().amax(-1, keepdim=True)
        overall = self.input_global_scale or torch.ldexp(torch.ones_like(largest[:1]), 11 - torch.frexp(largest.max())[1])
        scales = to_e4m3(largest * (1 / 6) * overall).float().clamp(min=LEAST) / overall
        sizes = (groups * scales.reciprocal()).clamp(-6, 6)
        # Ties go to even, as in E2M1: its numbers are 0.5 apart up to 2, 1 up to 4, 2 up to 6.
        apart = torch.where(sizes.abs() < 2, 0.5, torch.where(sizes.abs() < 4, 1.0, 2.0))
        return ((sizes / apart).round() * apart * scales).flatten(-2).to(inputs.dtype)


class Nvfp4Part:
    FIELDS = ("activations",)

    def wrap(self, linear, stored):
        """The map with the same parameters under the same names; with 4-bit activations it rounds its inputs, by a
        number in whose place compressed-tensors puts the saved one."""
        if stored["activations"] == 4:
            linear.__class__ = RoundedTo4Bits
            linear.input_global_scale = 0.0
        return linear


PART = Nvfp4Part()
