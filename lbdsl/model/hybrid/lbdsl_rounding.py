"""Rounding through which gradients pass unchanged; linear maps and experts that round their inputs; numbers of E4M3."""

from types import MethodType

import torch
from torch import nn
from torch.nn.functional import linear

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


def take_one_by_one(experts, name, rounding=None, held=None):
    """Have a layer's experts read the tensor `name` expert by expert, and round what it is multiplied with. `held` makes of
    the tensor what holds the matrices in its place."""
    if held is not None:
        like = getattr(experts, name)
        delattr(experts, name)
        setattr(experts, name, held(like))
    experts.rounding = {**getattr(experts, "rounding", {}), name: rounding}
    experts.forward = MethodType(_one_by_one, experts)


def _one_by_one(experts, hidden_TD, index_TK, weights_TK):
    """What the families' own experts compute for T tokens, of which each has K, with the gates `weights_TK`."""

    held = {name: getattr(experts, name) for name in ("gate_up_proj", "down_proj")}
    # Taken one by one from a parameter each would have a gradient of the size of all.
    held = {name: of.unbind() if isinstance(of, torch.Tensor) else of for name, of in held.items()}

    def through(name, expert, inputs):
        to = experts.rounding.get(name)
        return linear(inputs if to is None else rounded(inputs, to), held[name][expert])

    total = torch.zeros_like(hidden_TD)
    for expert in index_TK.unique().tolist():
        # Elsewhere are those of other processes.
        if expert < experts.num_experts:
            tokens, places = torch.where(index_TK == expert)
            gate, up = through("gate_up_proj", expert, hidden_TD[tokens]).chunk(2, dim=-1)
            found = through("down_proj", expert, experts.act_fn(gate) * up) * weights_TK[tokens, places, None]
            total.index_add_(0, tokens, found.to(total.dtype))
    return total
