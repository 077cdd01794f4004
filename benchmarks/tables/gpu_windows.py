"""Windowed attention on a GPU: the Triton kernel against what else computes windows there, in bfloat16.

Needs a GPU. `over X` says how many times faster the kernel is: masked and causal SDPA of PyTorch, FlexAttention (compiled),
and FlashAttention-2's window where `flash_attn` is installed. 32 query heads and 8 of keys and values, 128 wide; a window
of 512 tokens. `share` is that of the useful FLOPs in the rate of a matrix product on this GPU. Ratios are medians of 20
rounds by turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Row, Table

if TYPE_CHECKING:
    import torch

HEADS, GROUPS, SIZE, WINDOW, ROUNDS = 32, 8, 128, 512, 20
LENGTHS = (1024, 4096, 8192, 16384, 32768)


def ways(tokens: int, states: list[torch.Tensor]) -> dict[str, Callable[[], torch.Tensor]]:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    from lbdsl.kernels.window import window_attention

    query, key, value = states
    place = torch.arange(tokens, device="cuda")
    seen = (place <= place[:, None]) & (place > place[:, None] - WINDOW)
    sdpa = partial(scaled_dot_product_attention, query, key, value, enable_gqa=True)

    def visible(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (k <= q) & (k > q - WINDOW)

    blocks = create_block_mask(visible, None, None, tokens, tokens, device="cuda")
    flex = torch.compile(flex_attention)
    found = {
        "kernel": lambda: window_attention(query, key, value, WINDOW),
        "masked": lambda: sdpa(attn_mask=seen),
        "causal": lambda: sdpa(is_causal=True),
        "flex": lambda: flex(query, key, value, block_mask=blocks, enable_gqa=True),
    }
    if find_spec("flash_attn"):
        from flash_attn import flash_attn_func

        by_token = [state.transpose(1, 2) for state in states]
        found["flash"] = lambda: flash_attn_func(*by_token, causal=True, window_size=(WINDOW - 1, 0)).transpose(1, 2)
    return found


def milliseconds(way: Callable[[], torch.Tensor], states: list[torch.Tensor], backward: bool) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    found = way()
    if backward:
        torch.autograd.grad(found, states, torch.ones_like(found))
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def row(tokens: int, backward: bool, work: Path) -> dict[str, float | str]:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("no GPU: this table compares kernels on one")
    made = torch.Generator("cuda").manual_seed(0)
    states = [
        torch.randn(1, heads, tokens, SIZE, generator=made, device="cuda").bfloat16().requires_grad_(backward)
        for heads in (HEADS, GROUPS, GROUPS)
    ]
    able = ways(tokens, states)
    expected = able["masked"]().float()
    for name, way in able.items():
        if name != "causal" and (way().float() - expected).abs().max() > 0.05:
            raise RuntimeError(f"{name} computes something else")
        milliseconds(way, states, backward)
    rounds = [{name: milliseconds(way, states, backward) for name, way in able.items()} for _ in range(ROUNDS)]
    own = statistics.median(each["kernel"] for each in rounds)
    pairs = WINDOW * tokens - WINDOW * (WINDOW - 1) // 2
    flops = (4 + 10 * backward) * HEADS * SIZE * pairs
    return {
        "gpu": torch.cuda.get_device_name(),
        "ms": own,
        "share": flops / (own / 1e3) / matrix_rate(),
        **{
            f"over {name}": statistics.median(each[name] / each["kernel"] for each in rounds)
            for name in able
            if name != "kernel"
        },
    }


def matrix_rate() -> float:
    """FLOPs a second of a large matrix product."""
    import torch

    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = [milliseconds(lambda: left @ right, [], backward=False) for _ in range(10)]
    return 2 * 8192**3 / (statistics.median(times) / 1e3)


TABLE = Table(
    title="windowed attention on a GPU: the Triton kernel over others",
    columns={
        "ms": ".2f",
        "share": ".0%",
        **{f"over {name}": ".2f" for name in ("masked", "causal", "flex", "flash")},
        "gpu": "s",
    },
    rows=[
        Row(f"{'backward-' if backward else ''}{tokens}", partial(row, tokens, backward))
        for backward in (False, True)
        for tokens in LENGTHS
    ],
    measures=("lbdsl/kernels",),
)
