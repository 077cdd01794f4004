"""Read the header of an untrusted safetensors file.

Format (huggingface/safetensors, README): 8 bytes little-endian length N, N bytes of JSON
`{name: {dtype, shape, data_offsets}}`, then the data, without holes or overlaps. A file that
violates this is refused before anything maps it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail

HEADER_CAP = 100_000_000
"""Maximum size of a header in bytes; the format's own limit."""

DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""torch's name and the bytes per element, by safetensors' dtype name."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file: `shape` in torch's order, `dtype` by torch's name, `start` and `stop` as byte offsets. `stored`
    is its name in the file, if that is another. One that the files have in `pieces`, which follow each other in it, has the
    place of the first. `packing` "mxfp4": the pieces are blocks of 4-bit floats and their scales."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int
    stored: str | None = None
    pieces: tuple[TensorInfo, ...] = ()
    packing: str = ""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_safetensors_header(path: Path) -> tuple[TensorInfo, ...]:
    """The tensors of one file, in the order of their data. Raises LbdslError with LB405 or LB407."""
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise _cut(f"{path.name} has {size} bytes, too few for a safetensors file")
            length = int.from_bytes(prefix, "little")
            if length > HEADER_CAP:
                raise _bad(path, f"its header claims {length} bytes; at most {HEADER_CAP} are allowed")
            if 8 + length > size:
                raise _cut(f"{path.name} is truncated: expected at least {8 + length} bytes, found {size}")
            raw = stream.read(length)
    except OSError as problem:
        raise fail("LB405", f"cannot read {path.name}: {problem.strerror}") from problem
    infos = tuple(sorted(_tensors(path, _parse(path, raw), 8 + length), key=lambda t: (t.start, t.stop)))
    _check_layout(path, infos, 8 + length, size)
    return infos


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise _bad(path, "its header is not a JSON object")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (ValueError, RecursionError) as problem:
        raise _bad(path, f"its header is not JSON ({type(problem).__name__})") from problem
    assert isinstance(header, dict), "JSON that starts with a brace is an object"
    return header


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _bad(path, f"its header has the key {_shown(twice)} twice")
    return result


def _tensors(path: Path, header: dict[str, Any], base: int) -> Iterable[TensorInfo]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(path, "__metadata__ is not a map of strings")
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _bad(path, f"the entry of {_shown(name)} is not dtype, shape and data_offsets")
        dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise _bad(path, f"{_shown(name)} has the unknown dtype {_shown(entry['dtype'])}")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _counts(shape) or len(shape) > 8:
            raise _bad(path, f"the shape of {_shown(name)} is not a list of sizes")
        if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise _bad(path, f"the data_offsets of {_shown(name)} are not a range")
        needed = math.prod(shape) * dtype[1]
        if offsets[1] - offsets[0] != needed:
            raise _bad(
                path, f"{_shown(name)} needs {needed} bytes for {dtype[0]} {shape}, its range has {offsets[1] - offsets[0]}"
            )
        yield TensorInfo(name, dtype[0], tuple(shape), path.name, base + offsets[0], base + offsets[1])


def _check_layout(path: Path, infos: tuple[TensorInfo, ...], base: int, size: int) -> None:
    end = base
    for info in infos:
        if info.start < end:
            raise _bad(path, f"the data of {_shown(info.name)} overlaps another tensor's")
        if info.start > end:
            raise _bad(path, f"there is a hole of {info.start - end} bytes before {_shown(info.name)}")
        end = info.stop
    if size < end:
        raise _cut(f"{path.name} is truncated: expected {end} bytes, found {size}")
    if size > end:
        raise _bad(path, f"expected {end} bytes, found {size}: {size - end} bytes belong to no tensor")


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _shown(value: Any) -> str:
    """Untrusted text, shortened and printable."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _cut(message: str) -> LbdslError:
    return fail("LB405", message, help="copy or download it again")


def _bad(path: Path, what: str) -> LbdslError:
    return fail("LB407", f"{path.name} is malformed: {what}", help="do not use this file; get it from its source again")
