"""Experts in files of other tools: a matrix each, where an artifact has those of a layer in one tensor."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnostic, error, note
from lbdsl.core.units import layers_text
from lbdsl.export.base import Subject
from lbdsl.model.safetensors_header import TensorInfo
from lbdsl.parts import TensorShape
from lbdsl.run.file_layout import ELEMENT_BYTES, MadeTensor

AS_SAVED = "load the artifact itself with trust_remote_code=True"


def stored_experts(subject: Subject) -> Iterator[Diagnostic]:
    """LB530 for quantized experts of which no stock class has the tensors: it takes all of a model in one form, and one by
    one; and a note where it computes them otherwise."""
    experts = [(layer, tensor) for layer in subject.left for tensor in _experts(subject, layer)]
    forms = {subject.specs[layer].storage(tensor.module) for layer, tensor in experts}
    if len(forms) > 1:
        which = layers_text({layer for layer, tensor in experts if subject.specs[layer].storage(tensor.module) is not None})
        said = f"transformers reads quantized experts ({which}) only where those of all layers are stored alike"
        yield error("LB530", said, help=f"quantize all experts in one way, or {AS_SAVED}")
    elif forms - {None} and not all("{}" in file for _, tensor in experts for file in tensor.files):
        family = subject.facts.family
        yield error("LB530", f"{family}'s experts are one tensor in files, and cannot be quantized there", help=AS_SAVED)
    if any(form is not None and form.scheme and form.scheme["input_activations"] for form in forms):
        said = (
            "transformers' own class does not round the inputs of quantized experts, as vLLM does and as they were judged"
        )
        yield note("LB530", said, help=f"in transformers {AS_SAVED}")


def _experts(subject: Subject, layer: int) -> list[TensorShape]:
    tensors = subject.specs[layer].tensors(subject.facts)
    return [tensor for tensor in tensors if tensor.is_matrix and len(tensor.shape) == 3]


def _in_another_block(tensor: TensorShape) -> bool:
    """Whether files have it in a module of another name; engines whose class is older than that of transformers read it
    only by that name."""
    block = tensor.name.partition(".")[0]
    return bool(tensor.files) and not any(file.startswith(f"{block}.") for file in tensor.files)


def routers(subject: Subject) -> dict[str, str]:
    """The names in files of routers that stand in another module there."""
    prefix, found = subject.facts.family_data.layer_prefix, {}
    for new, layer in enumerate(subject.left):
        for tensor in subject.specs[layer].tensors(subject.facts):
            if tensor.routes and _in_another_block(tensor):
                found[prefix.format(layer) + tensor.name] = prefix.format(new) + tensor.files[0]
    return found


class _Single(NamedTuple):
    """A tensor of one expert: bytes of the tensor of all, or what they are."""

    tensor: MadeTensor
    source: TensorInfo | bytes
    start: int = 0

    def read(self, folder: Path) -> bytes:
        if isinstance(self.source, bytes):
            return self.source
        with (folder / self.source.file).open("rb") as stream:
            stream.seek(self.source.start + self.start)
            return stream.read(ELEMENT_BYTES[self.tensor.dtype] * math.prod(self.tensor.shape))


def single_experts(subject: Subject, tensors: Mapping[str, TensorInfo]) -> tuple[set[str], dict[str, _Single]]:
    """The tensors of experts that are written one by one, and those of each expert that take their place, in layers that
    are renumbered: where they are quantized, and where files have them in another module."""
    joined, singles = set[str](), dict[str, _Single]()
    for new, layer in enumerate(subject.left):
        old, prefix = (subject.facts.family_data.layer_prefix.format(index) for index in (layer, new))
        for tensor in _experts(subject, layer):
            packed = [name for name in tensors if name.startswith(f"{old}{tensor.module}.")]
            saved = packed or [old + tensor.name] * _in_another_block(tensor)
            joined.update(saved)
            experts, rows, columns = tensor.shape
            rows //= len(tensor.files)
            each = ((n, file) for n in range(experts) for file in tensor.files)
            for place, (expert, file) in enumerate(each if saved else ()):
                module = prefix + file.format(expert).removesuffix(".weight")
                for name in saved:
                    info = tensors[name]
                    made = MadeTensor(info.dtype, (rows, info.shape[2]), name)
                    start = place * rows * info.shape[2] * ELEMENT_BYTES[info.dtype]
                    leaf = name.removeprefix(f"{old}{tensor.module}.") if packed else "weight"
                    singles[f"{module}.{leaf}"] = _Single(made, info, start)
                if any(name.endswith("weight_packed") for name in packed):
                    made = MadeTensor("int64", (2,), packed[0])
                    singles[f"{module}.weight_shape"] = _Single(made, struct.pack("<2q", rows, columns))
    return joined, singles
