"""Write a GGUF file in chunks, with at most a few MiB of weights in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report
from lbdsl.export.gguf_tensors import OutTensor, PackedMatrix
from lbdsl.model.safetensors_header import TensorInfo

_CHUNK = 2**22
"""Number of elements converted at a time."""

_F16_OVERFLOW = 0x4780
"""The bits of 65,536 in bf16, the smallest bf16 number above float16's range."""

_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q8_0": 7}
_BLOCK = 32
"""Weights of a row that share a scale in Q4_0 and Q8_0."""

_SOURCE_TYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}


def write_gguf(
    path: Path,
    fields: Mapping[str, Any],
    tensors: Sequence[OutTensor],
    folder: Path,
    numbers: str | None = None,
    report: Report | None = None,
) -> None:
    """Write `fields` and `tensors`, whose sources are in `folder`, to `path`.

    Vectors are written as float32, as llama.cpp expects. Matrices are written as `numbers` ("F32", "F16" or "BF16") if that
    is given; else float32 stays float32 and 16-bit types become float16, except that a bfloat16 matrix with a value beyond
    float16's range stays bfloat16. Raises LB463 if writing fails.
    """
    kinds = [
        numbers if numbers and len(t.shape) > 1 and not (t.packed or t.float32) else number_type(folder, t) for t in tensors
    ]
    writer = gguf.GGUFWriter(path, str(fields["general.architecture"]))
    matrices = [kind for kind, tensor in zip(kinds, tensors, strict=True) if len(tensor.shape) > 1]
    common = max(sorted(set(matrices)), key=matrices.count)
    add: dict[type, Any] = {
        bool: writer.add_bool,
        str: writer.add_string,
        int: writer.add_uint32,
        float: writer.add_float32,
    }
    for key, value in {**fields, "general.file_type": _FILE_TYPES[common]}.items():
        if key != "general.architecture":
            add.get(type(value), writer.add_array)(key, value)
    for kind, tensor in zip(kinds, tensors, strict=True):
        stored = gguf.GGMLQuantizationType[kind]
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, stored)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        _write_data(path, kinds, tensors, folder, report)
    except OSError as problem:
        raise fail("LB463", f"cannot write {path}: {problem.strerror or problem}") from problem


def number_type(folder: Path, tensor: OutTensor) -> str:
    """The default type that a tensor is written in."""
    if tensor.packed is not None:
        return "Q4_0" if tensor.packed.storage.bits == 4 else "Q8_0"
    if (
        tensor.float32
        or len(tensor.shape) == 1
        or (tensor.source is not None and tensor.source.dtype in ("float32", "float64"))
    ):
        return "F32"
    if tensor.source is None or tensor.source.dtype == "float16":
        return "F16"
    bits = _mapped(folder, tensor.source)
    for start in range(0, bits.size, _CHUNK):
        if (bits[start : start + _CHUNK] & 0x7FFF).max() >= _F16_OVERFLOW:
            return "BF16"
    return "F16"


def _write_data(
    path: Path, kinds: Sequence[str], tensors: Sequence[OutTensor], folder: Path, report: Report | None
) -> None:
    """Append the tensors' data in order, each padded to GGUF's alignment of 32 bytes."""
    total = max(sum(math.prod(t.shape) for t in tensors), 1)
    done = 0
    with path.open("r+b") as stream:
        stream.seek(0, 2)
        stream.write(bytes(-stream.tell() % 32))
        for kind, tensor in zip(kinds, tensors, strict=True):
            chunks = (
                ((gguf.quantize(c, gguf.GGMLQuantizationType[kind]).tobytes(), c.size) for c in _chunks(folder, tensor))
                if tensor.packed is None
                else _blocks(folder, tensor, tensor.packed)
            )
            for data, elements in chunks:
                stream.write(data)
                done += elements
                if report is not None:
                    report(done, total, tensor.name)
            stream.write(bytes(-stream.tell() % 32))


def _chunks(folder: Path, tensor: OutTensor) -> Iterator[Any]:
    """Yield one tensor in order as float32 chunks [rows, columns]; bf16 is converted exactly."""
    rows = tensor.shape[0]
    columns = math.prod(tensor.shape[1:])
    if tensor.source is None:
        if len(tensor.values) > 1:
            yield np.array(tensor.values, dtype=np.float32).reshape(rows, columns)
            return
        step = max(1, _CHUNK // columns)
        for start in range(0, rows, step):
            yield np.full((min(step, rows - start), columns), tensor.values[0], dtype=np.float32)
        return
    shape = tensor.source.shape if len(tensor.shape) == 3 or tensor.columns is not None else (-1, columns)
    for part in _rows_of(_mapped(folder, tensor.source).reshape(shape), tensor):
        wide = -np.exp(_widened(part)) if tensor.minus_exp else _widened(part)
        yield wide + np.float32(tensor.offset) if tensor.offset else wide


def _rows_of(data: Any, tensor: OutTensor) -> Iterator[Any]:
    """Yield the tensor's rows of `data` [rows, any] in order, in chunks of at most about _CHUNK elements of the tensor; of
    `data` [experts, rows, any], or of its transposed matrices, expert by expert."""
    if data.ndim == 3:
        for matrix in data:
            yield from _rows_of(matrix.T if tensor.transposed else matrix, replace(tensor, shape=tensor.shape[1:]))
        return
    rows = tensor.shape[0]
    if tensor.rows is None:
        data = data[tensor.start : tensor.start + rows]
    unit = tensor.pair_dim or 1
    step = max(unit, _CHUNK // math.prod(tensor.shape[1:]) // unit * unit)
    for start in range(0, rows, step):
        part = data[start : start + step] if tensor.rows is None else data[np.array(tensor.rows[start : start + step])]
        if tensor.columns is not None:
            part = part[:, np.array(tensor.columns)]
        if tensor.pair_dim is not None:
            # (half, i) to (i, half): llama.cpp rotates pairs of adjacent rows, transformers pairs from the two halves.
            halves = part.reshape(-1, 2, tensor.pair_dim // 2, part.shape[1])
            part = halves.swapaxes(1, 2).reshape(part.shape)
        yield part


def _blocks(folder: Path, tensor: OutTensor, packed: PackedMatrix) -> Iterator[tuple[bytes, int]]:
    """Yield one packed matrix as blocks of Q4_0 or Q8_0, in chunks of rows, with the number of weights in each.

    A block is a float16 scale and 32 integers; in Q4_0 byte i holds integer i + 8 in its low and i + 16 + 8 in its high
    half. Scales are exact: float16 holds every bfloat16 from 2^-14 to 65,280.
    """
    storage, parts = packed.storage, packed.parts
    words = parts["weight"] if storage.activations == 8 else parts["weight_packed"]
    columns, scale = tensor.shape[-1], parts["weight_scale"]
    raw = _rows_of(_raw(folder, words).reshape(*words.shape[:-1], -1), tensor)
    for data, scales in zip(raw, _rows_of(_mapped(folder, scale).reshape(scale.shape), tensor), strict=True):
        if storage.activations == 8:
            integers = data.view(np.int8)
        elif storage.bits == 8:
            integers = (data.astype(np.int16) - 128).astype(np.int8)
        else:
            integers = np.stack((data & 15, data >> 4), axis=-1).reshape(len(data), columns).astype(np.int8) - 8
        wide = _widened(scales)
        if wide.max() > np.finfo(np.float16).max:
            raise fail("LB524", f"{tensor.name} has scales beyond float16, which {number_type(folder, tensor)} cannot hold")
        each = np.repeat(wide.astype("<f2"), columns // _BLOCK // wide.shape[1], axis=1)
        blocks = integers.reshape(len(data), -1, _BLOCK)
        if storage.bits == 4:
            blocks = (blocks[..., : _BLOCK // 2] + 8) | ((blocks[..., _BLOCK // 2 :] + 8) << 4)
        heads = each.view(np.uint8).reshape(*each.shape, 2)
        yield np.concatenate((heads, blocks.view(np.uint8)), axis=-1).tobytes(), integers.size


def _mapped(folder: Path, info: TensorInfo) -> Any:
    return _raw(folder, info).view(_SOURCE_TYPES[info.dtype])


def _raw(folder: Path, info: TensorInfo) -> Any:
    """The bytes of a tensor."""
    return np.memmap(folder / info.file, dtype=np.uint8, mode="r", offset=info.start, shape=(info.stop - info.start,))


def _widened(part: Any) -> Any:
    if part.dtype == np.uint16:
        return (part.astype(np.uint32) << 16).view(np.float32)
    return part.astype(np.float32)
