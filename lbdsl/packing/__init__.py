"""Packings, the tensors that stand for a matrix in a checkpoint: one file for each kind of storage that has one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from lbdsl.core.registry import discover
from lbdsl.packing.base import Packing
from lbdsl.parts.base import Storage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Packing", "largest_of", "packed", "packings", "unpacked"]


@cache
def packings() -> Mapping[str, type[Packing]]:
    """All packings by the kind of storage (cached)."""
    return discover(sys.modules[__name__], Packing, "lbdsl.actions")


def packed(
    stored: Storage, weight: Tensor, inputs: Tensor | None = None, largest: float | None = None
) -> dict[str, Tensor]:
    """As `Packing.pack`; matrices of experts, [experts, rows, columns], are packed one by one."""
    pack = packings()[stored.kind].pack
    if weight.ndim == 2:
        return pack(stored, weight, inputs, **({"largest": largest} if stored.needs_largest else {}))
    found: dict[str, Tensor] = {}
    for expert, matrix in enumerate(weight):
        for name, value in pack(stored, matrix).items():
            # A shape is the same for all.
            if value.ndim > 1:
                found.setdefault(name, value.new_empty(len(weight), *value.shape))[expert] = value
    return found


def largest_of(matrices: Iterable[tuple[str, Storage, Callable[[], Tensor]]]) -> dict[tuple[str, Storage], float]:
    """By the parent of a module and its storage, where that needs it, the largest weight of all. `matrices`: names of
    modules, their storage, and what reads their weights."""
    found: dict[tuple[str, Storage], float] = {}
    for module, stored, read in matrices:
        if stored.needs_largest:
            place = (module.rpartition(".")[0], stored)
            found[place] = max(found.get(place, 0.0), float(read().abs().max()))
    return found


def unpacked(stored: Storage, tensors: Mapping[str, Tensor], into: Tensor | None = None) -> Tensor:
    """As `Packing.unpack`, of `packed`; those of experts are written into `into`, if that is given."""
    unpack = packings()[stored.kind].unpack
    if not any(value.ndim == 3 for value in tensors.values()):
        return unpack(stored, tensors)
    for expert in range(len(next(iter(tensors.values())))):
        matrix = unpack(stored, {name: value[expert] for name, value in tensors.items()})
        into = matrix.new_empty(len(next(iter(tensors.values()))), *matrix.shape) if into is None else into
        into[expert] = matrix
    assert into is not None
    return into
