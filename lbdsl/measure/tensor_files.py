"""Read tensors, or some of their rows, from a checkpoint into memory, without mmap.

Mapped pages count as resident for as long as the mapping exists, and a file that shrinks while it is mapped kills the
process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lbdsl.core.diagnostic import fail
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.safetensors_header import TensorInfo

STEP = 2**27
"""Bytes per read call; the system returns at most 2 GiB."""


HALVES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The numbers of e2m1 floats without their sign."""


def from_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The numbers in bfloat16, which has all of them: of `blocks` (experts, rows, groups, 16) of two each, the lower half
    first, and of `scales` (experts, rows, groups) that mean 2^(scale - 127), as (experts, 32 * groups, rows)."""
    table = torch.tensor([*HALVES, *(-half for half in HALVES)])
    experts, rows, groups = scales.shape
    found = torch.empty(experts, 32 * groups, rows, dtype=torch.bfloat16)
    # One expert at a time: indices and products in float32 take many times its bytes.
    for expert, (packed, exponents) in enumerate(zip(blocks, scales, strict=True)):
        halves = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
        numbers = torch.ldexp(table[halves.int()], exponents.int().unsqueeze(-1) - 127)
        found[expert] = numbers.flatten(-2).T
    return found


class TensorFiles:
    """The tensors of the safetensors checkpoint in a folder, by name. Headers are read and checked once.

    Tensors are cast to `dtype` on `device`, then to `compute` if that is given. Raises what `read_tensors` raises, and
    LB419 if a file is shorter than its header says.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: Any, compute: torch.dtype | None = None):
        self.infos = read_tensors(folder)
        self._folder = folder
        self._dtype = dtype
        self._compute = compute or dtype
        self._device = torch.device(device)

    def read(self, name: str, *, as_stored: bool = False) -> Tensor:
        """The whole tensor; `as_stored`: on the CPU, without a cast."""
        info = self.infos[name]
        if not info.pieces:
            return self._read(info, info.start, info.shape, as_stored)
        if info.packing:
            blocks, scales = (self._read(piece, piece.start, piece.shape, as_stored=True) for piece in info.pieces)
            unpacked = from_mxfp4(blocks, scales).to(getattr(torch, info.dtype))
            return unpacked if as_stored else self.cast(unpacked)
        whole = torch.empty(info.shape, dtype=getattr(torch, info.dtype))
        for piece, into in zip(info.pieces, whole.view(-1).split([p.elements for p in info.pieces]), strict=True):
            into.copy_(self._read(piece, piece.start, piece.shape, as_stored=True).view(-1))
        return whole if as_stored else self.cast(whole)

    def cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._device, dtype=self._dtype).to(self._compute)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start .. stop - 1 of the first dimension."""
        info = self.infos[name]
        return self._read(info, info.start + start * self._row_bytes(info), (stop - start, *info.shape[1:]))

    def gather(self, name: str, rows: Sequence[int]) -> Tensor:
        """The rows with these numbers, in this order; consecutive rows are read in one call."""
        info = self.infos[name]
        parts, first = [], 0
        for place in range(1, len(rows) + 1):
            if place == len(rows) or rows[place] != rows[place - 1] + 1:
                parts.append(
                    self._read(info, info.start + rows[first] * self._row_bytes(info), (place - first, *info.shape[1:]))
                )
                first = place
        return torch.cat(parts)

    @staticmethod
    def _row_bytes(info: TensorInfo) -> int:
        return (info.stop - info.start) // info.shape[0]

    def _read(self, info: TensorInfo, start: int, shape: tuple[int, ...], as_stored: bool = False) -> Tensor:
        tensor = torch.empty(shape, dtype=getattr(torch, info.dtype))
        bytes_of = tensor.reshape(-1).view(torch.uint8).numpy().data
        with (self._folder / info.file).open("rb", buffering=0) as stream:
            done = 0
            while done < len(bytes_of):
                count = os.preadv(stream.fileno(), [bytes_of[done : done + STEP]], start + done)
                if count == 0:
                    raise fail(
                        "LB419",
                        f"{info.file} was truncated while it was read",
                        help="wait until it is written, then run again",
                    )
                done += count
        return tensor if as_stored else self.cast(tensor)
