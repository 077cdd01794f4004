"""Evaluate weight expressions: the only place where new weights are computed, for scoring, healing and rewriting files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.layer.weights import AnyExpr, Concat, Factor, Init, Largest, MatMul, Mean, Ref, Slice, Stat, Sum, Take, Transpose

Tensors = Callable[[str], Tensor]
"""Returns a parameter of the original layer, by its name relative to the layer."""


@torch.no_grad()
def tensor_of(expr: AnyExpr, tensors: Tensors, stats: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The value of an expression, rounded once to `dtype`, the dtype that the weights are saved in.

    It is computed in float64 on the CPU, so the result depends neither on the model's compute dtype nor on its device; what
    is only taken of a parameter, as of experts, is copied.
    """
    if isinstance(expr, Take) and isinstance(expr.x, Ref) and not isinstance(expr.indices, int):
        return _taken(tensors(expr.x.name).detach().to("cpu"), expr, tensors, stats).to(dtype).contiguous()
    return _of(expr, tensors, stats).to(dtype).contiguous()


def made_of(
    model: Any,
    layer: int,
    weights: Iterable[tuple[str, AnyExpr]],
    stats: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """The new weights of a layer of a hybrid model, in the model's compute dtype and on its device.

    They are first rounded to the dtype that the model is saved in, so measurements use the values that a file would hold.
    """
    old = model.model.layers[layer].get_parameter
    saved = getattr(torch, getattr(model, "saved_dtype", None) or str(model.dtype).removeprefix("torch."))
    return {
        name: tensor_of(expr, old, stats, saved).to(device=model.lm_head.weight.device, dtype=model.dtype)
        for name, expr in weights
    }


def _of(expr: AnyExpr, tensors: Tensors, stats: Mapping[str, Tensor]) -> Tensor:
    def of(part: AnyExpr) -> Tensor:
        return _of(part, tensors, stats)

    match expr:
        case Ref():
            return tensors(expr.name).detach().to("cpu", torch.float64)
        case Stat():
            if expr.text not in stats:
                raise fail("LB475", f"new weights need the statistic {expr.text}, which was not taken")
            return stats[expr.text].to("cpu", torch.float64)
        case Take():
            return _taken(of(expr.x), expr, tensors, stats)
        case Mean():
            x = of(expr.x)
            blocks = x.unflatten(expr.axis, (-1, expr.group, expr.size))
            axis = expr.axis % x.dim()
            return blocks.mean(dim=axis + 1).flatten(axis, axis + 1)
        case Concat():
            return torch.cat([of(x) for x in expr.xs], dim=expr.axis)
        case Slice():
            return of(expr.x).narrow(expr.axis, expr.start, expr.stop - expr.start)
        case Sum():
            return reduce(torch.add, map(of, expr.xs))
        case MatMul():
            return _product(of(expr.a), of(expr.b))
        case Transpose():
            return of(expr.x).mT
        case Factor():
            return _factor(of(expr.x), expr.rank)[expr.which == "second"]
        case Init():
            generator = torch.Generator().manual_seed(expr.seed)
            return torch.randn(expr.dims, generator=generator, dtype=torch.float64) * expr.std


def _factor(x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors of a truncated SVD; see `Factor`."""
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    left, right = left[:, :rank], right[:rank]
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    roots = values[:rank].sqrt()
    return left * signs * roots, (signs * roots).T * right


def _taken(x: Tensor, expr: Take, tensors: Tensors, stats: Mapping[str, Tensor]) -> Tensor:
    indices = expr.indices
    if isinstance(indices, int):
        return x.select(expr.axis, indices)
    taken = indices.indices(_of(indices.of, tensors, stats)) if isinstance(indices, Largest) else torch.tensor(indices)
    return x.index_select(expr.axis, taken)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, block-diagonal when one operand has 3 dimensions; see `MatMul`."""
    if a.dim() == 3:
        blocks = b.unflatten(0, (a.shape[0], a.shape[2]))
        return torch.einsum("kij,kj...->ki...", a, blocks).flatten(0, 1)
    if b.dim() == 3:
        return torch.einsum("nki,kij->nkj", a.unflatten(1, (b.shape[0], b.shape[1])), b).flatten(1, 2)
    return a @ b
