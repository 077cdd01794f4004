"""In which dtype a device computes, as opposed to the one that weights are kept in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compute_dtype(dtype: str, device: Any) -> str:
    """float32 for bfloat16 weights on a CPU without fast bfloat16 products, where torch's take up to 80 times as long as
    float32's; else `dtype`. Every bfloat16 number is a float32 number, so the weights stay what they are."""
    if torch.device(device).type != "cpu" or dtype != "bfloat16" or not torch.backends.mkldnn.is_available():
        return dtype  # a torch without oneDNN does not say what it is quick at
    return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def cast_weights(model: nn.Module, dtype: str) -> Any:
    """Parameters alone, in place: `model.to` would round buffers too, and rotary frequencies rounded to bfloat16 are wrong
    ones."""
    # New weights are rounded as those that are saved.
    model.saved_dtype = str(next(model.parameters()).dtype).removeprefix("torch.")  # type: ignore[assignment]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model
