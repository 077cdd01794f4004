"""Read the metadata and tensor table of a GGUF file, without its tokens and weights.

Format: ggml/docs/gguf.md, versions 2 and 3, little-endian. Every length is checked against the file's size before
anything is read, so a malicious count cannot cause long loops or large allocations.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.model.safetensors_header import TensorInfo

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file. `metadata` holds scalars and strings, and for an array only its `ArrayLength`."""

    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class ArrayLength:
    """Placeholder for an array that was skipped."""

    length: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Metadata and tensors, with shapes in torch's order (outermost first). Raises LbdslError with LB405 or LB410."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except ValueError as problem:  # an empty file cannot be mapped
        raise fail("LB405", f"{path.name} is empty", help="copy or download it again") from problem
    except OSError as problem:
        raise fail("LB405", f"cannot read {path.name}: {problem.strerror}") from problem


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.size, self.at = path, data, len(data), 0

    def read(self) -> GgufHeader:
        if self.data[:4] != b"GGUF":
            raise self.bad("it does not start with the letters GGUF")
        self.at = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            raise self.bad(f"its version is {version}; 2 and 3 are read")
        tensor_count, field_count = self.scalar("<Q"), self.scalar("<Q")
        # Every field and every tensor entry takes more than 8 bytes, so this bounds both loops.
        if (tensor_count + field_count) * 8 > self.size:
            raise self.cut(f"{tensor_count} tensors and {field_count} fields are promised")
        metadata: dict[str, Any] = {}
        for _ in range(field_count):
            key = self.string()
            if key in metadata:
                raise self.bad(f"it has the field {key[:60]!a} twice")
            metadata[key] = self.value(self.scalar("<I"))
        entries = [self.entry() for _ in range(tensor_count)]
        return GgufHeader(metadata, self.place(entries, metadata.get("general.alignment", _ALIGNMENT)))

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, rank = self.string(), self.scalar("<I")
        if rank > 4:
            raise self.bad(f"{name[:60]!a} has {rank} dimensions")
        dims = tuple(self.scalar("<Q") for _ in range(rank))
        return name, dims[::-1], self.scalar("<I"), self.scalar("<Q")

    def place(self, entries: list[tuple[str, tuple[int, ...], int, int]], alignment: Any) -> tuple[TensorInfo, ...]:
        """All tensors with their file offsets, checked for range and overlap."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise self.bad(f"its alignment is {alignment!r}")
        base = -(-self.at // alignment) * alignment
        infos, names = [], set()
        for name, shape, kind, offset in entries:
            if name in names:
                raise self.bad(f"it has the tensor {name[:60]!a} twice")
            names.add(name)
            try:
                ggml = GGMLQuantizationType(kind)
            except ValueError:
                raise self.bad(f"{name[:60]!a} has the unknown type {kind}") from None
            block, block_bytes = GGML_QUANT_SIZES[ggml]
            if shape and shape[-1] % block:
                raise self.bad(f"rows of {name[:60]!a} are not whole blocks of {block}")
            stop = base + offset + math.prod(shape) // block * block_bytes
            infos.append(TensorInfo(name, ggml.name, shape, self.path.name, base + offset, stop))
        infos.sort(key=lambda t: (t.start, t.stop))
        end = max((t.stop for t in infos), default=base)
        if end > self.size:
            raise fail(
                "LB405",
                f"{self.path.name} is truncated: expected {end} bytes, found {self.size}",
                help="copy or download it again",
            )
        for before, after in pairwise(infos):
            if after.start < before.stop:
                raise self.bad(f"the data of {after.name[:60]!a} overlaps another tensor's")
        return tuple(infos)

    def scalar(self, form: str) -> Any:
        width = struct.calcsize(form)
        self.need(width)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += width
        return value

    def string(self) -> str:
        length = self.scalar("<Q")
        self.need(length)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad("a name or text in it is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        raise self.bad(f"a field has the unknown type {kind}")

    def array(self) -> ArrayLength:
        kind, length = self.scalar("<I"), self.scalar("<Q")
        if kind in _SCALARS:
            width = length * struct.calcsize(_SCALARS[kind])
            self.need(width)
            self.at += width
        elif kind == _STRING:
            self.need(length * 8)
            for _ in range(length):
                width = self.scalar("<Q")
                self.need(width)
                self.at += width
        else:
            raise self.bad(f"an array holds items of type {kind}")
        return ArrayLength(length)

    def need(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.cut(f"{count} more bytes are promised at byte {self.at}")

    def cut(self, what: str) -> LbdslError:
        return fail(
            "LB405",
            f"{self.path.name} is truncated or damaged: {what}, and it has {self.size} bytes",
            help="copy or download it again",
        )

    def bad(self, what: str) -> LbdslError:
        return fail(
            "LB410", f"{self.path.name} cannot be used: {what}", help="do not use this file; get it from its source again"
        )
