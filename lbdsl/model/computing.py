"""The compute dtype on a device, as opposed to the dtype of the stored weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compute_dtype(dtype: str, device: Any) -> str:
    """On a CPU float32 for float16 weights, which cannot be trained there, and for bfloat16 weights without fast matrix
    products (where they take up to 80 times as long as in float32); else `dtype`. Every value of both is exact in float32,
    so the weights keep their values."""
    if torch.device(device).type == "cpu" and dtype == "float16":
        return "float32"
    if torch.device(device).type != "cpu" or dtype != "bfloat16" or not torch.backends.mkldnn.is_available():
        return dtype  # without oneDNN, torch does not report whether bfloat16 is fast
    return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def cast_weights(model: nn.Module, dtype: str) -> Any:
    """Cast only the parameters, in place: `model.to` would also round buffers, and rotary frequencies rounded to bfloat16
    are wrong."""
    # New weights are rounded to the dtype of the saved ones.
    model.saved_dtype = str(next(model.parameters()).dtype).removeprefix("torch.")  # type: ignore[assignment]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model
