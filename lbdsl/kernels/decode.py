"""Attention of one new token of each sequence over all slots of a cache, in Triton: a ring of a window needs no mask.

The heads that share keys are computed together, so keys and values are read once. Source: split by group as in
FlashDecoding (Dao et al. 2023), in one pass: rings are short.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lbdsl.kernels.window import added, launched_on, tile

BLOCK = 64
"""Slots that are read at once."""


@torch.no_grad()
def decode_attention(
    query_BH1D: Tensor,
    key_BGCD: Tensor,
    value_BGCD: Tensor,
    learned_H: Tensor | None = None,
    scaling: float | None = None,
) -> Tensor:
    """The output [B, H, 1, D] of H heads, of which H / G share each of the G heads of keys and values in C slots.
    `learned_H` are learned sinks, in logits. Without gradients."""
    batch, heads, _, size = query_BH1D.shape
    groups, slots = key_BGCD.shape[1:3]
    output = torch.empty_like(query_BH1D)
    with launched_on(query_BH1D):
        _decode[(batch * groups,)](
            query_BH1D,
            key_BGCD,
            value_BGCD,
            query_BH1D if learned_H is None else learned_H,
            output,
            *(query_BH1D.stride(place) for place in (0, 1, 3)),
            *key_BGCD.stride(),
            *value_BGCD.stride(),
            *(output.stride(place) for place in (0, 1, 3)),
            groups,
            heads // groups,
            slots,
            size,
            size**-0.5 if scaling is None else scaling,
            BLOCK=BLOCK,
            SIZE=max(16, triton.next_power_of_2(size)),
            SHARED=max(16, triton.next_power_of_2(heads // groups)),
            LEARNED=learned_H is not None,
        )
    return output


@triton.jit
def _decode(
    query, key, value, learned, output,
    qb, qh, qd, kb, kg, kn, kd, vb, vg, vn, vd, ob, oh, od,
    groups, shared, slots, size, scaling,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, SHARED: tl.constexpr, LEARNED: tl.constexpr,
):  # fmt: skip
    # Offsets of a row may be over 32 bits.
    batch, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups
    rows, depth = tl.arange(0, SHARED), tl.arange(0, SIZE)
    first = group * shared
    q = tile(query + batch * qb + first * qh, rows, depth, qh, qd, shared, size)
    total = tl.zeros([SHARED], tl.float32)
    top = tl.full([SHARED], float("-inf"), tl.float32)
    if LEARNED:
        total += 1.0
        top = tl.load(learned + first + rows, mask=rows < shared, other=0.0).to(tl.float32)
    found = tl.zeros([SHARED, SIZE], tl.float32)
    for at in range(0, slots, BLOCK):
        places = at + tl.arange(0, BLOCK)
        k = tile(key + batch * kb + group * kg, places, depth, kn, kd, slots, size)
        v = tile(value + batch * vb + group * vg, places, depth, vn, vd, slots, size)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        scores = tl.where(places[None, :] < slots, scores, float("-inf"))
        total, top, found = added(total, top, found, scores, v)
    place = output + batch * ob + (first + rows[:, None]) * oh + depth[None, :] * od
    inside = (rows[:, None] < shared) & (depth[None, :] < size)
    total = tl.where(total > 0, total, 1.0)
    tl.store(place, (found / total[:, None]).to(output.dtype.element_ty), mask=inside)
