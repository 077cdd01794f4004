"""Integers with scales, as compressed-tensors stores them: rounded to nearest, or with error feedback (GPTQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from lbdsl.packing.base import Packing
from lbdsl.parts.int_weights import MIN_SCALE, Int

if TYPE_CHECKING:
    from torch import Tensor


class IntPacking(Packing):
    """Two's complement bytes for 8-bit activations, else offset binary in 32-bit words, the first weight in the lowest
    bits."""

    kind: ClassVar[str] = "int"

    @staticmethod
    def pack(stored: Int, weight: Tensor, inputs: Tensor | None = None) -> dict[str, Tensor]:
        import torch

        integers, scales = _rounded(weight, stored, inputs)
        scales = scales.to(weight.dtype)
        if stored.activations == 8:
            return {"weight": integers, "weight_scale": scales}
        packed = torch.cat([_words(part, stored.bits) for part in integers.split(_rows(weight))])
        return {"weight_packed": packed, "weight_scale": scales, "weight_shape": torch.tensor(weight.shape)}

    @staticmethod
    def unpack(stored: Int, tensors: Mapping[str, Tensor]) -> Tensor:
        import torch

        integers, scales = IntPacking.integers(stored, tensors)
        parts = zip(integers.split(_rows(integers)), scales.split(_rows(integers)), strict=True)
        return torch.cat([_times(part, each) for part, each in parts])

    @staticmethod
    def integers(stored: Int, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The int8 integers [rows, columns] and the scales [rows, groups] in saved tensors."""
        import torch

        if stored.activations == 8:
            return tensors["weight"], tensors["weight_scale"]
        words = tensors["weight_packed"]
        integers = [_integers(part, stored.bits) for part in words.split(_rows(words, 32 // stored.bits))]
        return torch.cat(integers), tensors["weight_scale"]


CHUNK = 2**22
"""Elements that are computed at a time, so that large matrices take little memory."""


def _rows(matrix: Tensor, elements: int = 1) -> int:
    """The rows that make a chunk, at `elements` weights for each element of `matrix`."""
    return max(1, CHUNK // (matrix.shape[1] * elements))


def _words(integers: Tensor, bits: int) -> Tensor:
    """[rows, columns] to [rows, columns * bits / 32] as int32."""
    import torch

    shifts = torch.arange(32 // bits) * bits
    words = ((integers.long() + 2 ** (bits - 1)).unflatten(1, (-1, 32 // bits)) << shifts).sum(-1)
    # A word with its highest bit set is a negative int32.
    words -= (words >= 2**31) * 2**32
    return words.int()


def _integers(words: Tensor, bits: int) -> Tensor:
    """`_words` reversed, as int8."""
    import torch

    shifts = torch.arange(32 // bits, dtype=torch.int32) * bits
    return (((words.unsqueeze(-1) >> shifts) & (2**bits - 1)) - 2 ** (bits - 1)).flatten(1).to(torch.int8)


def _times(integers: Tensor, scales: Tensor) -> Tensor:
    """The weights, exact in float32 (8 bits times 8 bits), then rounded once."""
    groups = integers.float().unflatten(1, (scales.shape[1], -1))
    return (groups * scales.float().unsqueeze(-1)).flatten(1).to(scales.dtype)


def _rounded(weight: Tensor, stored: Int, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """The integers, as int8, and the scales [rows, groups], in float32, of a matrix [rows, columns]."""
    import torch

    size = weight.shape[1] if isinstance(stored.group, str) else stored.group
    whole = weight.detach().to("cpu")
    if gram is not None:
        return _with_feedback(whole.to(torch.float32, copy=True), size, stored.most, gram)
    integers, scales = [], []
    for part in whole.split(_rows(whole)):
        groups = part.double().unflatten(1, (-1, size))
        scales.append(_scales(groups, stored.most))
        integers.append(_nearest(groups, scales[-1].double().unsqueeze(-1), stored.most).flatten(1).to(torch.int8))
    return torch.cat(integers), torch.cat(scales)


def _scales(groups: Tensor, most: int) -> Tensor:
    """The scales of groups [..., size], in float32: the largest size over the largest integer, rounded to bfloat16 before
    any integer is made, and at least MIN_SCALE. So every container holds the same numbers."""
    import torch

    return (groups.abs().amax(-1) / most).to(torch.bfloat16).float().clamp_(min=MIN_SCALE)


def _best_scales(weights: Tensor, most: int, sizes: Tensor) -> Tensor:
    """The scales [rows] of one group of each row, [rows, size]; `sizes` are the mean squares of the inputs, [size]."""
    import torch

    least, best = torch.tensor(torch.inf), torch.zeros(())
    for relative in TRIED:
        scales = _scales(weights * relative, most)
        off = weights - _nearest(weights, scales.unsqueeze(-1), most) * scales.unsqueeze(-1)
        error = off.square_() @ sizes
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return best


def _nearest(weights: Tensor, scales: Tensor, most: int) -> Tensor:
    return (weights / scales).round_().clamp_(-most, most)


DAMPING = 0.01
"""What is added to the diagonal of the Gram matrix, relative to its mean; as in the paper."""

TRIED = [step / 50 for step in range(30, 56)]
"""The sizes of a scale that gptq tries, relative to the one that reaches the largest weight."""

BLOCK = 128
"""Columns between two updates of the rest of the matrix."""


def _with_feedback(left: Tensor, size: int, most: int, gram: Tensor) -> tuple[Tensor, Tensor]:
    """As `_rounded`, in float32, for a matrix [rows, columns], which is overwritten. Columns are rounded in order, and the
    columns that follow make up for the error of each, as the Gram matrix of the inputs [columns, columns] says; the scale
    of a group is that of its weights when the first of them is rounded, of all TRIED with the least error, each column
    weighed by the mean square of its input. The inverse is the upper Cholesky factor of that of the damped Gram matrix;
    raises ValueError if there is none.

    Source: GPTQ (arXiv 2210.17323), with the Cholesky factor of the inverse.
    """
    import torch

    columns = left.shape[1]
    # These matrices can take gigabytes: one copy, with its columns in memory as LAPACK has them, so that it works in place.
    inverse = gram.to("cpu", torch.float32, copy=True).mT
    diagonal = inverse.diagonal()
    # Inputs that are always 0 are left alone.
    diagonal += torch.where(diagonal == 0, 1.0, DAMPING * diagonal.mean())
    sizes = diagonal.clone()
    try:
        torch.linalg.cholesky(inverse, out=inverse)
        torch.cholesky_inverse(inverse, out=inverse)
        torch.linalg.cholesky(inverse, upper=True, out=inverse)
    except torch.linalg.LinAlgError:
        raise ValueError("the Gram matrix of its inputs cannot be inverted") from None
    integers, scales = torch.empty(left.shape, dtype=torch.int8), []
    # A group's scale must see all errors before it: no group begins within a block and ends after it.
    block = BLOCK if BLOCK % size == 0 or size % BLOCK == 0 else size
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            if column % size == 0:
                scales.append(_best_scales(left[:, column : column + size], most, sizes[column : column + size]))
            whole = _nearest(left[:, column], scales[-1], most)
            integers[:, column] = whole.to(torch.int8)
            error = (left[:, column] - whole * scales[-1]) / inverse[column, column]
            left[:, column:stop] -= error.unsqueeze(1) * inverse[column, column:stop]
            errors[:, column - start] = error
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    return integers, torch.stack(scales, dim=1)
