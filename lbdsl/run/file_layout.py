"""Plan a rewritten checkpoint from the headers alone: which files are linked, and which are written from which tensors."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lbdsl.model.checkpoint import SINGLE, read_tensors, weight_files
from lbdsl.model.safetensors_header import DTYPES, TensorInfo

FORMAT_NAMES: Mapping[str, str] = {torch_name: name for name, (torch_name, _) in DTYPES.items()}
ELEMENT_BYTES: Mapping[str, int] = dict(DTYPES.values())
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


class MadeTensor(NamedTuple):
    """A new tensor: its dtype by torch's name, its shape, and the old tensor that it is placed beside, "" for the last."""

    dtype: str
    shape: tuple[int, ...]
    beside: str = ""


@dataclass(frozen=True)
class NewTensor:
    """A tensor of a new file: its source, and its name, dtype and `start` (an offset from the beginning of the data). A
    tensor that is `made` (newly computed) has no bytes in the old file: `source` gives its shape, and its position."""

    source: TensorInfo
    name: str
    dtype: str
    start: int
    made: bool = False

    @property
    def size(self) -> int:
        return self.source.elements * ELEMENT_BYTES[self.dtype]

    @property
    def is_cast(self) -> bool:
        return not self.made and self.dtype != self.source.dtype


@dataclass(frozen=True)
class ShardPlan:
    """One file of the result. `source` is the old file; it is hard-linked if `linked`, else written from `pieces`."""

    source: str
    name: str
    pieces: tuple[NewTensor, ...]
    linked: bool

    @property
    def size(self) -> int:
        """Bytes of tensor data."""
        return sum(piece.size for piece in self.pieces)

    def header(self) -> bytes:
        """The safetensors header (length and JSON), padded so that the data begins at a multiple of 8 bytes."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for piece in self.pieces:
            entries[piece.name] = {
                "dtype": FORMAT_NAMES[piece.dtype],
                "shape": list(piece.source.shape),
                "data_offsets": [piece.start, piece.start + piece.size],
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class RewritePlan:
    """All files of the result, in order. If only one file is left, it is a single-file checkpoint without an index."""

    source: Path
    shards: tuple[ShardPlan, ...]

    @property
    def bytes_to_write(self) -> int:
        """Bytes of tensor data in files that are not linked."""
        return sum(shard.size for shard in self.shards if not shard.linked)

    @property
    def total_size(self) -> int:
        return sum(shard.size for shard in self.shards)

    def index(self) -> dict[str, object]:
        """The content of the shard index."""
        where = {piece.name: shard.name for shard in self.shards for piece in shard.pieces}
        elements = sum(piece.source.elements for shard in self.shards for piece in shard.pieces)
        return {
            "metadata": {"total_parameters": elements, "total_size": self.total_size},
            "weight_map": dict(sorted(where.items())),
        }


def plan_rewrite(
    source_folder: Path,
    *,
    drop: Collection[str] = (),
    rename: Mapping[str, str] = MappingProxyType({}),
    dtype: str | None = None,
    made: Mapping[str, MadeTensor] = MappingProxyType({}),
) -> RewritePlan:
    """Plan dropping, renaming and replacing tensors, and casting floating-point tensors to `dtype` (torch's name).

    `drop` names the tensors to leave out, `rename` maps old names to new ones. `made` has the new tensors:
    each replaces the tensor of its name, or is placed beside another. Reads only headers, and validates them:
    raises LbdslError with LB401 or LB405-LB409 as `lbdsl.model.checkpoint` does. ValueError if no tensor is left or two
    tensors would have the same name.
    """
    tensors = read_tensors(source_folder)
    last = max(tensors.values(), key=lambda info: (info.file, info.stop))
    new = {
        name: replace(
            tensors.get(name, tensors.get(tensor.beside, last)), name=name, dtype=tensor.dtype, shape=tensor.shape
        )
        for name, tensor in made.items()
    }
    tensors = {**tensors, **new}
    kept = [info for info in tensors.values() if info.name not in drop]
    if not kept:
        raise ValueError("nothing is left of the checkpoint")
    if len({rename.get(info.name, info.name) for info in kept}) != len(kept):
        raise ValueError("two tensors cannot have one name")

    # A file with a later piece of a tensor whose first one is elsewhere would be linked with it.
    elsewhere = {piece.file for info in tensors.values() for piece in info.pieces}
    shards: list[ShardPlan] = []
    for file in weight_files(source_folder):
        all_of_file = [info for info in tensors.values() if info.file == file]
        pieces = _pieces([info for info in all_of_file if info.name not in drop], rename, dtype, made)
        same = len(pieces) == len(all_of_file) and all(
            piece.name == (piece.source.stored or piece.name) == piece.source.name and not piece.is_cast and not piece.made
            for piece in pieces
        )
        # A link has the file's mode: one that is read-only, as of a copy of a GGUF file, would be so in the artifact.
        linked = same and file not in elsewhere and bool((source_folder / file).stat().st_mode & stat.S_IWUSR)
        if pieces:
            shards.append(ShardPlan(file, file, pieces, linked))
    return RewritePlan(source_folder, _named(shards))


def _pieces(
    infos: list[TensorInfo], names: Mapping[str, str], dtype: str | None, made: Collection[str]
) -> tuple[NewTensor, ...]:
    """The tensors of one new file: widest dtypes first, so that every tensor is aligned, else in the old file's order."""
    pieces = [
        NewTensor(
            info,
            names.get(info.name, info.name),
            dtype if dtype and info.dtype in _FLOATS and info.name not in made else info.dtype,
            0,
            info.name in made,
        )
        for info in infos
    ]
    placed, end = [], 0
    for piece in sorted(pieces, key=lambda p: (-ELEMENT_BYTES[p.dtype], p.source.start, p.source.stop)):
        placed.append(replace(piece, start=end))
        end += piece.size
    return tuple(placed)


def _named(shards: list[ShardPlan]) -> tuple[ShardPlan, ...]:
    """The shards with the usual file names, numbered from 1 without gaps even if shards were left out."""
    if len(shards) == 1:
        return (replace(shards[0], name=SINGLE),)
    width = max(5, 1 + int(math.log10(len(shards))))
    return tuple(
        replace(shard, name=f"model-{number:0{width}}-of-{len(shards):0{width}}.safetensors")
        for number, shard in enumerate(shards, start=1)
    )
