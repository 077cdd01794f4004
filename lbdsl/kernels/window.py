"""Causal attention over a window in Triton, forward and backward: token sinks, learned sinks, grouped queries.

A query sees the last `window` tokens, itself included, and the first `sinks` tokens. A learned sink of a query head is one
more term exp(s) in its softmax's denominator. Blocks of keys that a block of queries cannot see are not visited, so the
work is N (window + block) instead of N^2 / 2. Scores, sums and gradients are accumulated in float32.

Sources: FlashAttention-2 (arXiv 2307.08691); windows, Longformer (arXiv 2004.05150); sinks, StreamingLLM (arXiv 2309.17453)
and gpt-oss (arXiv 2508.10925).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
"""Queries, and keys, of a block."""


def window_attention(
    query_BHND: Tensor,
    key_BGND: Tensor,
    value_BGND: Tensor,
    window: int,
    sinks: int = 0,
    learned_H: Tensor | None = None,
    scaling: float | None = None,
) -> Tensor:
    """The output [B, H, N, D] for queries of H heads, of which H / G share each of the G heads of keys and values.
    `learned_H` are learned sinks, in logits. D is at most 256."""
    scaling = query_BHND.shape[-1] ** -0.5 if scaling is None else scaling
    return _Window.apply(query_BHND, key_BGND, value_BGND, learned_H, window, sinks, scaling)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        learned: Tensor | None,
        window: int,
        sinks: int,
        scaling: float,
    ) -> Tensor:
        batch, heads, tokens, _ = query.shape
        output = torch.empty_like(query)
        sums_BHN = torch.empty(batch, heads, tokens, dtype=torch.float32, device=query.device)
        sizes = _sizes(query, key, window, sinks, scaling)
        with launched_on(query):
            _forward[(triton.cdiv(tokens, BLOCK), batch * heads)](
                query,
                key,
                value,
                query if learned is None else learned,
                output,
                sums_BHN,
                *query.stride(),
                *key.stride(),
                *value.stride(),
                *output.stride(),
                **sizes,
                LEARNED=learned is not None,
            )
        ctx.save_for_backward(query, key, value, learned, output, sums_BHN)
        ctx.arguments = window, sinks, scaling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, learned, output, sums_BHN = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        batch, heads, tokens, _ = query.shape
        # Sum over D of the output times its gradient: what softmax's backward subtracts.
        inner_BHN = (output.float() * gradient.float()).sum(-1)
        by_query, by_key, by_value = (torch.empty_like(states) for states in (query, key, value))
        sizes = _sizes(query, key, *ctx.arguments)
        common = (query, key, value, gradient, sums_BHN, inner_BHN)
        strides = (*query.stride(), *key.stride(), *value.stride(), *gradient.stride())
        with launched_on(query):
            _backward_query[(triton.cdiv(tokens, BLOCK), batch * heads)](
                *common, by_query, *strides, *by_query.stride(), **sizes
            )
            _backward_key_value[(triton.cdiv(tokens, BLOCK), batch * key.shape[1])](
                *common, by_key, by_value, *strides, *by_key.stride(), *by_value.stride(), **sizes
            )
        by_learned = None
        if learned is not None:
            share_BHN = (learned.float().view(1, heads, 1) - sums_BHN).exp()
            by_learned = -(share_BHN * inner_BHN).sum((0, 2)).to(learned.dtype)
        return by_query, by_key, by_value, by_learned, None, None, None


def launched_on(states: Tensor) -> AbstractContextManager[Any]:
    """Triton launches kernels on the current device, whatever the tensors are on."""
    return torch.cuda.device(states.device) if states.is_cuda else nullcontext()


def _sizes(query: Tensor, key: Tensor, window: int, sinks: int, scaling: float) -> dict[str, Any]:
    _, heads, tokens, size = query.shape
    return {
        "heads": heads,
        "groups": key.shape[1],
        "tokens": tokens,
        "size": size,
        "window": window,
        "sinks": sinks,
        "scaling": scaling,
        "SINKS": max(16, triton.next_power_of_2(sinks)) if sinks else 0,
        "BLOCK": BLOCK,
        "SIZE": max(16, triton.next_power_of_2(size)),
    }


@triton.jit
def tile(base, rows, columns, row_stride, column_stride, row_count, column_count):
    """Values [rows, columns] of a matrix; 0 outside it."""
    inside = (rows[:, None] < row_count) & (columns[None, :] < column_count)
    return tl.load(base + rows[:, None] * row_stride + columns[None, :] * column_stride, mask=inside, other=0.0)


@triton.jit
def _scores(q, k, queries, keys, tokens, window, sinks, scaling):
    """Scores of queries and keys, -inf where a query does not see a key."""
    q_i, k_j = queries[:, None], keys[None, :]
    seen = (k_j <= q_i) & (k_j < tokens) & ((k_j > q_i - window) | (k_j < sinks))
    return tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") * scaling, float("-inf"))


@triton.jit
def added(total, top, output, scores, v):
    """The running softmax (sum, largest score, output) with more keys."""
    higher = tl.maximum(top, tl.max(scores, 1))
    # A row that has seen no key yet.
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    shares = tl.exp(scores - shift[:, None])
    kept = tl.exp(top - shift)
    output = output * kept[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
    return total * kept + tl.sum(shares, 1), higher, output


@triton.jit
def _forward(
    query, key, value, learned, output, sums,
    qb, qh, qn, qd, kb, kg, kn, kd, vb, vg, vn, vd, ob, oh, on, od,
    heads, groups, tokens, size, window, sinks, scaling,
    SINKS: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr, LEARNED: tl.constexpr,
):  # fmt: skip
    start, row = tl.program_id(0) * BLOCK, tl.program_id(1)
    # Offsets of a row may be over 32 bits.
    batch, head = (row // heads).to(tl.int64), row % heads
    group = head // (heads // groups)
    queries, depth = start + tl.arange(0, BLOCK), tl.arange(0, SIZE)
    keys_of, values_of = key + batch * kb + group * kg, value + batch * vb + group * vg
    q = tile(query + batch * qb + head * qh, queries, depth, qn, qd, tokens, size)
    total = tl.zeros([BLOCK], tl.float32)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    if LEARNED:
        total += 1.0
        top = tl.zeros([BLOCK], tl.float32) + tl.load(learned + head).to(tl.float32)
    found = tl.zeros([BLOCK, SIZE], tl.float32)
    low = tl.maximum(start - window + 1, 0) // BLOCK * BLOCK
    if SINKS > 0:
        # The sinks before the window's blocks; those within them are seen there.
        first = tl.arange(0, SINKS)
        k = tile(keys_of, first, depth, kn, kd, tl.minimum(sinks, low), size)
        v = tile(values_of, first, depth, vn, vd, tl.minimum(sinks, low), size)
        scores = _scores(q, k, queries, first, tl.minimum(sinks, low), window, sinks, scaling)
        total, top, found = added(total, top, found, scores, v)
    for at in range(low, tl.minimum(start + BLOCK, tokens), BLOCK):
        keys = at + tl.arange(0, BLOCK)
        k = tile(keys_of, keys, depth, kn, kd, tokens, size)
        v = tile(values_of, keys, depth, vn, vd, tokens, size)
        scores = _scores(q, k, queries, keys, tokens, window, sinks, scaling)
        total, top, found = added(total, top, found, scores, v)
    place = output + batch * ob + head * oh + queries[:, None] * on + depth[None, :] * od
    inside = (queries[:, None] < tokens) & (depth[None, :] < size)
    # Rows behind the last token see nothing.
    total = tl.where(total > 0, total, 1.0)
    tl.store(place, (found / total[:, None]).to(output.dtype.element_ty), mask=inside)
    tl.store(sums + row * tokens + queries, top + tl.log(total), mask=queries < tokens)


@triton.jit
def _score_gradients(q, k, v, do, rows, inner, queries, keys, tokens, window, sinks, scaling):
    """The softmax's shares and the gradients of the scores before scaling, [queries, keys]."""
    scores = _scores(q, k, queries, keys, tokens, window, sinks, scaling)
    shares = tl.exp(scores - rows[:, None])
    by_share = tl.dot(do, tl.trans(v), input_precision="ieee")
    return shares, shares * (by_share - inner[:, None]) * scaling


@triton.jit
def _backward_query(
    query, key, value, gradient, sums, inner, by_query,
    qb, qh, qn, qd, kb, kg, kn, kd, vb, vg, vn, vd, gb, gh, gn, gd, ob, oh, on, od,
    heads, groups, tokens, size, window, sinks, scaling,
    SINKS: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    start, row = tl.program_id(0) * BLOCK, tl.program_id(1)
    batch, head = (row // heads).to(tl.int64), row % heads
    group = head // (heads // groups)
    queries, depth = start + tl.arange(0, BLOCK), tl.arange(0, SIZE)
    keys_of, values_of = key + batch * kb + group * kg, value + batch * vb + group * vg
    q = tile(query + batch * qb + head * qh, queries, depth, qn, qd, tokens, size)
    do = tile(gradient + batch * gb + head * gh, queries, depth, gn, gd, tokens, size)
    rows = tl.load(sums + row * tokens + queries, mask=queries < tokens, other=0.0)
    sub = tl.load(inner + row * tokens + queries, mask=queries < tokens, other=0.0)
    found = tl.zeros([BLOCK, SIZE], tl.float32)
    low = tl.maximum(start - window + 1, 0) // BLOCK * BLOCK
    if SINKS > 0:
        first = tl.arange(0, SINKS)
        k = tile(keys_of, first, depth, kn, kd, tl.minimum(sinks, low), size)
        v = tile(values_of, first, depth, vn, vd, tl.minimum(sinks, low), size)
        _, ds = _score_gradients(q, k, v, do, rows, sub, queries, first, tl.minimum(sinks, low), window, sinks, scaling)
        found += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    for at in range(low, tl.minimum(start + BLOCK, tokens), BLOCK):
        keys = at + tl.arange(0, BLOCK)
        k = tile(keys_of, keys, depth, kn, kd, tokens, size)
        v = tile(values_of, keys, depth, vn, vd, tokens, size)
        _, ds = _score_gradients(q, k, v, do, rows, sub, queries, keys, tokens, window, sinks, scaling)
        found += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    place = by_query + batch * ob + head * oh + queries[:, None] * on + depth[None, :] * od
    inside = (queries[:, None] < tokens) & (depth[None, :] < size)
    tl.store(place, found.to(by_query.dtype.element_ty), mask=inside)


@triton.jit
def _backward_key_value(
    query, key, value, gradient, sums, inner, by_key, by_value,
    qb, qh, qn, qd, kb, kg, kn, kd, vb, vg, vn, vd, gb, gh, gn, gd,
    bkb, bkg, bkn, bkd, bvb, bvg, bvn, bvd,
    heads, groups, tokens, size, window, sinks, scaling,
    SINKS: tl.constexpr, BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    start, row = tl.program_id(0) * BLOCK, tl.program_id(1)
    batch, group = (row // groups).to(tl.int64), row % groups
    shared = heads // groups
    keys, depth = start + tl.arange(0, BLOCK), tl.arange(0, SIZE)
    k = tile(key + batch * kb + group * kg, keys, depth, kn, kd, tokens, size)
    v = tile(value + batch * vb + group * vg, keys, depth, vn, vd, tokens, size)
    key_found = tl.zeros([BLOCK, SIZE], tl.float32)
    value_found = tl.zeros([BLOCK, SIZE], tl.float32)
    high = tl.minimum(start + BLOCK - 1 + window, tokens)
    if SINKS > 0:
        # All later queries see a sink.
        high = tl.where(start < sinks, tokens, high)
    for place in range(shared):
        head = group * shared + place
        line = (batch * heads + head) * tokens
        for at in range(start, high, BLOCK):
            queries = at + tl.arange(0, BLOCK)
            q = tile(query + batch * qb + head * qh, queries, depth, qn, qd, tokens, size)
            do = tile(gradient + batch * gb + head * gh, queries, depth, gn, gd, tokens, size)
            rows = tl.load(sums + line + queries, mask=queries < tokens, other=0.0)
            sub = tl.load(inner + line + queries, mask=queries < tokens, other=0.0)
            shares, ds = _score_gradients(q, k, v, do, rows, sub, queries, keys, tokens, window, sinks, scaling)
            shares = tl.where(queries[:, None] < tokens, shares, 0.0)
            ds = tl.where(queries[:, None] < tokens, ds, 0.0)
            value_found += tl.dot(tl.trans(shares.to(do.dtype)), do, input_precision="ieee")
            key_found += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision="ieee")
    inside = (keys[:, None] < tokens) & (depth[None, :] < size)
    at_key = by_key + batch * bkb + group * bkg + keys[:, None] * bkn + depth[None, :] * bkd
    at_value = by_value + batch * bvb + group * bvg + keys[:, None] * bvn + depth[None, :] * bvd
    tl.store(at_key, key_found.to(by_key.dtype.element_ty), mask=inside)
    tl.store(at_value, value_found.to(by_value.dtype.element_ty), mask=inside)
