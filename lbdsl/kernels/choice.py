"""Whether the kernels are faster on this device than the attention that PyTorch has: timed once for each kind of input."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lbdsl.kernels.decode import decode_attention
from lbdsl.kernels.window import window_attention

MOST_TOKENS = 8192
"""What is faster at this many tokens is taken to be so beyond: a mask grows with their square."""


@dataclass(frozen=True)
class Inputs:
    """B rows of N tokens, H heads of D numbers, of which H / G share each of the G heads of keys and values."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    heads: int
    groups: int
    size: int
    tokens: int
    backward: bool = False

    def rounded(self, window: int = 0) -> Inputs:
        """Of inputs with as many tokens and rows to the next power of two, so that few are timed."""
        tokens = min(max(MOST_TOKENS, 2 * _power_of_two(window)), _power_of_two(self.tokens))
        return replace(self, tokens=tokens, batch=min(_power_of_two(self.batch), max(1, 4 * MOST_TOKENS // tokens)))

    def states(self, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        made = torch.Generator(self.device).manual_seed(0)

        def states(heads: int, tokens: int) -> Tensor:
            shape = self.batch, heads, tokens, self.size
            found = torch.randn(shape, generator=made, device=self.device, dtype=torch.float32).to(self.dtype)
            return found.requires_grad_(self.backward)

        return states(self.heads, queries), states(self.groups, self.tokens), states(self.groups, self.tokens)


def windows_pay(inputs: Inputs, window: int, sinks: int) -> bool:
    """Whether the kernel is faster over a window of the last `window` tokens and the first `sinks` than a mask."""
    return inputs.tokens > window and not _cannot_time() and _windows_pay(inputs.rounded(window), window, sinks)


def single_tokens_pay(inputs: Inputs) -> bool:
    """Whether the kernel is faster for one query a row over all `inputs.tokens` keys."""
    return not _cannot_time() and _single_tokens_pay(inputs.rounded())


def _cannot_time() -> bool:
    """While a graph is compiled or captured nothing can be timed; PyTorch's attention is then used."""
    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


@cache
def _windows_pay(inputs: Inputs, window: int, sinks: int) -> bool:
    q = torch.arange(inputs.tokens, device=inputs.device)

    def mask() -> Tensor:
        return (q <= q[:, None]) & ((q > q[:, None] - window) | (q < sinks))

    return _faster(inputs, inputs.tokens, lambda q, k, v: window_attention(q, k, v, window, sinks), mask)


@cache
def _single_tokens_pay(inputs: Inputs) -> bool:
    return _faster(inputs, 1, decode_attention, lambda: None)


def _attended(query: Tensor, *others: Tensor, seen: Tensor | None) -> Tensor:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in others)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen)


def _faster(inputs: Inputs, queries: int, ours: Callable[..., Tensor], mask: Callable[[], Tensor | None]) -> bool:
    """Whether our way is faster than PyTorch's attention with a mask, which may be too large for the device."""
    states: tuple[Tensor, ...] = ()

    def seconds(way: Callable[..., Tensor]) -> float:
        started = time.perf_counter()
        with torch.set_grad_enabled(inputs.backward):
            found = way(*states)
        if inputs.backward:
            torch.autograd.grad(found.sum(), states)
        if inputs.device.type == "cuda":
            torch.cuda.synchronize(inputs.device)
        return time.perf_counter() - started

    with torch.autocast(inputs.device.type, enabled=False):
        try:
            states = inputs.states(queries)
            seconds(ours)
        except Exception as problem:
            # No compiler, or not enough of a device's memory for this shape: PyTorch's attention needs neither.
            warnings.warn(f"lbdsl's kernel cannot compute {inputs}, and PyTorch's attention does: {problem}", stacklevel=2)
            return False
        try:
            theirs = partial(_attended, seen=mask())
            seconds(theirs)
        except torch.OutOfMemoryError:
            return True
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(5)]
    return statistics.median(a / b for a, b in pairs) < 1


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
