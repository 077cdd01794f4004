"""The compute dtype on a device, as opposed to the dtype of the stored weights."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
from torch import nn

SLOWER = 0.8
"""A CPU computes in bfloat16 unless its products are slower than this share of the speed in float32: the margin keeps the
choice of one machine from changing between two runs, whose numbers would differ."""

TRIALS = 5
"""Products of each dtype; the first are slow, for oneDNN makes their code."""


def compute_dtype(dtype: str, device: Any) -> str:
    """On a CPU float32 for float16 weights, which cannot be trained there, and for bfloat16 weights where a short trial
    finds matrix products slower than in float32 (without instructions for them up to 80 times); else `dtype`. Every value
    of both is exact in float32, so the weights keep their values."""
    if torch.device(device).type == "cpu" and dtype == "float16":
        return "float32"
    if torch.device(device).type != "cpu" or dtype != "bfloat16":
        return dtype
    return dtype if bfloat16_speed() >= SLOWER else "float32"


@cache
def bfloat16_speed() -> float:
    """How many times as fast as in float32 a thread of this CPU multiplies matrices of a layer's size in bfloat16: the best
    of a few products of each, in the thread's own time, which others on the machine hardly change. What oneDNN says of the
    CPU is not asked: it calls emulated instructions supported."""
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(TRIALS):
            for dtype, best in seconds.items():
                left, right = torch.ones(128, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
                began = time.thread_time()
                left @ right
                seconds[dtype] = min(best, time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def computing_text(saved: str, computed: str, device: Any) -> str:
    """What a model of bfloat16 or float16 weights computes in on a CPU, and why; "" for others."""
    if torch.device(device).type != "cpu" or saved not in ("bfloat16", "float16"):
        return ""
    if saved == "float16":
        return "a CPU does not train in float16: computing in float32; weights are kept and saved in float16"
    speed = f"{bfloat16_speed():.2g} times as fast as float32 here"
    if computed == saved:
        return f"computing in bfloat16, {speed}, on {torch.get_num_threads()} threads"
    return f"computing in float32: bfloat16 is {speed}; weights are kept and saved in bfloat16"


def cast_weights(model: nn.Module, dtype: str) -> Any:
    """Cast only the parameters, in place: `model.to` would also round buffers, and rotary frequencies rounded to bfloat16
    are wrong."""
    # New weights are rounded to the dtype of the saved ones.
    model.saved_dtype = str(next(model.parameters()).dtype).removeprefix("torch.")  # type: ignore[assignment]
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model
