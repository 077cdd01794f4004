"""Windowed attention on this CPU: bands of queries beside scaled_dot_product_attention with a mask and without a window.

9 query heads and 3 of keys and values, 64 wide, a window of 512 tokens. The ways run by turns in one process; ratios are
medians over pairs of neighbouring runs. `gemm` is the rate of the products that the window needs, as a share of that of
matrix products on this machine. Rows of `sinks` and `length` compare bands with themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.table import Row, Table
from lbdsl.core.units import tokens_text

HEADS, GROUPS, SIZE, WINDOW = 9, 3, 64, 512
PAIRS = 5
NUMBERS = ("float32", "bfloat16")
"""bfloat16 has kernels of its own on CPUs with AVX-512 BF16 or AMX; on others it is emulated."""


class Ways:
    """The ways to attend over `tokens` tokens: functions of queries, keys and values."""

    def __init__(self, tokens: int, numbers: str, backward: bool, window: int = WINDOW) -> None:
        import torch

        self._backward, self._window = backward, window
        dtype, made = getattr(torch, numbers), torch.Generator().manual_seed(tokens)
        shapes = [(1, HEADS, tokens, SIZE), *[(1, GROUPS, tokens, SIZE)] * 2]
        self.states = [torch.randn(shape, generator=made).to(dtype).requires_grad_(backward) for shape in shapes]
        self._given = torch.randn(shapes[0], generator=made).to(dtype)

    def bands(self, sinks: int = 0, learned: bool = False) -> Callable[[], float]:
        import torch

        from lbdsl.model.hybrid.lbdsl_band_attention import Band, attend_in_bands

        band, logits = Band(self._window, sinks), torch.zeros(HEADS) if learned else None

        def attend(query: Any, key: Any, value: Any) -> Any:
            return attend_in_bands(query, key, value, band, SIZE**-0.5, logits).transpose(1, 2)

        return partial(self._seconds, attend)

    def masked(self) -> Callable[[], float]:
        import torch

        place = torch.arange(self._given.shape[2])
        seen = (place <= place[:, None]) & (place > place[:, None] - self._window)
        mask = torch.zeros(seen.shape, dtype=self._given.dtype).masked_fill(~seen, float("-inf"))
        return partial(self._seconds, partial(self._sdpa, attn_mask=mask))

    def causal(self) -> Callable[[], float]:
        return partial(self._seconds, partial(self._sdpa, is_causal=True))

    def _sdpa(self, query: Any, key: Any, value: Any, **how: Any) -> Any:
        import torch

        return torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True, **how)

    def _seconds(self, attend: Callable[..., Any]) -> float:
        import torch

        start = time.perf_counter()
        with torch.set_grad_enabled(self._backward):
            output = attend(*self.states)
            if self._backward:
                torch.autograd.grad(output, self.states, self._given)
        return time.perf_counter() - start


def ratio(slow: Callable[[], float], quick: Callable[[], float], backs: int = PAIRS) -> tuple[float, float]:
    """Seconds of `slow` over those of `quick`, and of one of them over itself."""
    from lbdsl.bench.cells import by_turns, paired

    found = paired(by_turns(slow, quick, backs, lambda: None), context=0, batch=0, metric="", unit="seconds")
    return 1 / found.ratio, found.again or 0.0


def against(tokens: int, numbers: str, backward: bool, _work: Path) -> dict[str, float]:
    from lbdsl.measure.calibrate import calibrate

    ways = Ways(tokens, numbers, backward)
    bands = ways.bands()
    masked, again = ratio(ways.masked(), bands)
    causal, _ = ratio(ways.causal(), bands)
    seconds = min(bands() for _ in range(PAIRS))
    seen = tokens * WINDOW - WINDOW * (WINDOW - 1) / 2
    # Two products forward; backward the scores again, and four.
    flops = 2 * HEADS * SIZE * seen * (7 if backward else 2)
    return {
        "over masked": masked,
        "over causal": causal,
        "again": again,
        "ms": 1e3 * seconds,
        "gemm": flops / seconds / calibrate("cpu", numbers).flops,
    }


def sinks(numbers: str, backward: bool, _work: Path) -> dict[str, float]:
    ways = Ways(4096, numbers, backward)
    bands = ways.bands()
    tokens, again = ratio(ways.bands(sinks=4), bands, 15)
    learned, _ = ratio(ways.bands(learned=True), bands, 15)
    return {"4 sinks": tokens, "learned sinks": learned, "again": again, "ms": 1e3 * bands()}


def length(numbers: str, backward: bool, _work: Path) -> dict[str, float]:
    long, short = (Ways(tokens, numbers, backward).bands() for tokens in (32 * 1024, 8 * 1024))
    times, again = ratio(long, short)
    return {"32Ki over 8Ki": times, "again": again, "ms": 1e3 * short()}


def rows() -> list[Row]:
    made = []
    for numbers in NUMBERS:
        for name, backward in {"forward": False, "both": True}.items():
            for tokens in (1024, 2048, 4096, 8192, 16384):
                key = f"{numbers}-{name}-{tokens_text(tokens)}"
                made.append(Row(key, partial(against, tokens, numbers, backward)))
            made.append(Row(f"{numbers}-{name}-sinks", partial(sinks, numbers, backward)))
            made.append(Row(f"{numbers}-{name}-length", partial(length, numbers, backward)))
    return made


TABLE = Table(
    title="windowed attention in bands on a CPU, w = 512, 9 / 3 heads, D = 64",
    columns={
        "over masked": ".1f",
        "over causal": ".1f",
        "gemm": ".2f",
        "4 sinks": ".2f",
        "learned sinks": ".2f",
        "32Ki over 8Ki": ".2f",
        "again": ".2f",
        "ms": ".0f",
    },
    rows=rows(),
    measures=("lbdsl/model/hybrid/lbdsl_band_attention.py",),
)
