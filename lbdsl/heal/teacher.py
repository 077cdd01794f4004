"""What the base model teaches: its hidden states on the sequences that are healed on, from the model or from disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lbdsl.core.files import replace_file

CACHE_FILE, CACHED_ROWS = "teacher-{}.bin", "teacher-{}.rows"
"""By dtype: a run may be resumed where the model computes in another one."""


@dataclass(frozen=True)
class TeacherStates:
    """Hidden states [B, N, D] of the base: before layer `first` (None if the student has to compute them itself, which
    gives the same), after each layer from there on, if asked for, and after the final norm."""

    before_BND: Tensor | None
    layers: tuple[Tensor, ...]
    final_BND: Tensor


class Teacher(Protocol):
    """`head` is [V, D]."""

    head: Tensor

    def states(
        self, ids_BN: Tensor, rows_B: Tensor, first: int, positions_BN: Tensor | None = None, *, layers: bool
    ) -> TeacherStates:
        """What it makes of the sequences `ids_BN`, which are those of the numbers `rows_B`."""


class LoadedTeacher:
    """The base in memory."""

    def __init__(self, model: Any):
        self._model = model
        self.head = model.lm_head.weight

    @torch.no_grad()
    def states(
        self, ids_BN: Tensor, rows_B: Tensor, first: int, positions_BN: Tensor | None = None, *, layers: bool
    ) -> TeacherStates:
        body = self._model.model
        hidden_BND = body.embed(ids_BN)
        inputs = body.prepare(hidden_BND, position_ids=positions_BN)
        before_BND, found = hidden_BND, []
        for index, layer in enumerate(body.layers):
            if index == first:
                before_BND = hidden_BND
            hidden_BND = body.run_layer(layer, index, hidden_BND, inputs)
            if layers and index >= first:
                found.append(hidden_BND)
        return TeacherStates(before_BND, tuple(found), body.norm(hidden_BND))


class CachedTeacher:
    """The base's last hidden states, in a file. No model is needed while they are read."""

    def __init__(self, states_SND: Tensor, head_VD: Tensor):
        self._states_SND = states_SND
        self.head = head_VD

    def states(
        self, ids_BN: Tensor, rows_B: Tensor, first: int, positions_BN: Tensor | None = None, *, layers: bool
    ) -> TeacherStates:
        if layers:
            raise ValueError("the cache has the last hidden states alone")
        return TeacherStates(None, (), self._states_SND[rows_B.cpu()].to(self.head.device))


def cached_teacher(
    model: Any,
    ids_SN: Tensor,
    folder: Path,
    batch: int,
    progress: Callable[[int, int, str], None],
    positions_SN: Tensor | None = None,
) -> CachedTeacher:
    """The last hidden states of `model` on `ids_SN`, in `folder`: tokens x hidden size numbers in the dtype that it
    computes in. They are computed from the sequence on where an earlier process stopped."""
    sequences, seq = ids_SN.shape
    # A copy: a slice of the checkpoint's mapped file would keep all of it in memory.
    head_VD = model.lm_head.weight.detach().clone()
    dtype, hidden = head_VD.dtype, head_VD.shape[1]
    kind = str(dtype).removeprefix("torch.")
    path, done = folder / CACHE_FILE.format(kind), folder / CACHED_ROWS.format(kind)
    start = int(done.read_text()) if done.is_file() and path.is_file() else 0
    row_bytes = seq * hidden * dtype.itemsize
    loaded = LoadedTeacher(model)
    path.touch()
    with path.open("r+b") as file:
        # Without room this is an OSError before anything is computed. (macOS does not have it.)
        getattr(os, "posix_fallocate", lambda *_: None)(file.fileno(), 0, sequences * row_bytes)
        file.seek(start * row_bytes)
        for row in range(start, sequences, batch):
            ids_BN = ids_SN[row : row + batch].to(head_VD.device)
            positions_BN = None if positions_SN is None else positions_SN[row : row + batch].to(head_VD.device)
            taught = loaded.states(ids_BN, torch.arange(row, row + len(ids_BN)), 0, positions_BN, layers=False)
            file.write(taught.final_BND.to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
            file.flush()
            # What a power cut takes must not be marked as written: it would be read as zeros.
            os.fsync(file.fileno())
            replace_file(done, str(row + len(ids_BN)).encode())
            progress((row + len(ids_BN)) * seq, ids_SN.numel(), "tokens")
    states_SND = torch.from_file(str(path), shared=True, size=sequences * seq * hidden, dtype=dtype)
    return CachedTeacher(states_SND.view(sequences, seq, hidden), head_VD)
