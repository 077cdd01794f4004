"""Calibrate a machine for the cost formulas: time a copy, a matrix product, and decode steps of tiny models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lbdsl.cost.cost import Machine
from lbdsl.measure.memory import total_bytes
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME

_BUDGET = 0.25
"""Time budget in seconds to measure one constant, after the warm-up runs."""

_DEPTHS = (2, 10)
"""Layer counts of two tiny models; the difference of their step times gives the cost of one layer."""

_COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
_GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
_GEMM_SMALL = 256


@torch.inference_mode()
def calibrate(device: Any, dtype: str) -> Machine:
    """Measure a device (`torch.device` or its name) in a dtype (`bfloat16`, ...). Takes a second or two."""
    device = torch.device(device)
    kind: torch.dtype = getattr(torch, dtype)
    memory = total_bytes(device)
    # Drawing random weights here must not change the caller's random state.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        shallow, deep = (_decode_seconds(depth, device, kind) for depth in _DEPTHS)
        layer = max(deep - shallow, 0.0) / (_DEPTHS[1] - _DEPTHS[0])
        t_mlp = min(_mlp_seconds(device, kind), layer)
        return Machine(
            bandwidth=_bandwidth(device, memory),
            flops=_flops(device, kind),
            mem_bytes=float(memory),
            t_attn=layer - t_mlp,
            t_mlp=t_mlp,
            t_head=max(shallow - _DEPTHS[0] * layer, 0.0),
        )


def _bandwidth(device: torch.device, memory: int) -> float:
    size = min(_COPY_BYTES.get(device.type, 2**28), memory // 16)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(_times(lambda: target.copy_(source), device))


def _flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the largest matrix product that fits the time budget: a dtype without hardware support (float16 on many
    CPUs) can be a thousand times slower."""
    n, largest = _GEMM_SMALL, _GEMM_SIZE.get(device.type, 2048)
    while n < largest and 8 * min(_times(_product(n, device, dtype), device, least=1, budget=0.0)) <= _BUDGET:
        n *= 2
    return 2 * n**3 / min(_times(_product(n, device, dtype), device))


def _product(n: int, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    left, right = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
    return lambda: left @ right


def _decode_seconds(layers: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one decode step with a KV cache, of a model so small that its arithmetic time is negligible."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    model: Any = LlamaForCausalLM(config)
    model = model.to(device=device, dtype=dtype).eval()
    keywords = {CACHE_NAME: DynamicCache(config=config), "use_cache": True}
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)

    def step() -> None:
        model(token, **keywords)

    return statistics.median(_times(step, device, least=12))


def _mlp_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a norm, a gated MLP and the residual addition, with tiny matrices."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

    config = LlamaConfig(hidden_size=64, intermediate_size=64)
    norm, mlp = (module.to(device=device, dtype=dtype) for module in (LlamaRMSNorm(64), LlamaMLP(config)))
    hidden_BND = torch.zeros(1, 1, 64, device=device, dtype=dtype)

    def ten() -> None:
        for _ in range(10):
            hidden_BND + mlp(norm(hidden_BND))

    return statistics.median(_times(ten, device)) / 10


def _times(work: Callable[[], object], device: torch.device, least: int = 3, budget: float | None = None) -> list[float]:
    """Seconds of each run, after two warm-up runs; at least `least` runs, more until `budget` seconds have passed (None:
    _BUDGET)."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    once()
    end = time.perf_counter() + (_BUDGET if budget is None else budget)
    times: list[float] = []
    while len(times) < least or time.perf_counter() < end:
        times.append(once())
    return times
