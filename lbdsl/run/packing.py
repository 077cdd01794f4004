"""Pack the weights of a finished model, layer by layer from disk, into the tensors that its storage saves.

Source and result are folders, so that a model that was healed in memory and one that was rewritten on disk take one way.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lbdsl.artifact.contents import file_hashes
from lbdsl.artifact.quantization import FIELD, quantization_config
from lbdsl.core.diagnostic import fail
from lbdsl.core.progress import Report, unreported
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import Stat
from lbdsl.measure.statistics import pass_over
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.measure.tensor_files import TensorFiles
from lbdsl.model.checkpoint import SINGLE, read_tensors
from lbdsl.model.config_file import read_json_object
from lbdsl.model.safetensors_header import TensorInfo
from lbdsl.packing import largest_of, packed, unpacked
from lbdsl.parts import TensorShape
from lbdsl.parts.base import Storage
from lbdsl.plan.schema import Plan
from lbdsl.run.copying import link_or_copy
from lbdsl.run.file_layout import MadeTensor, plan_rewrite
from lbdsl.run.shards import carry_out
from lbdsl.run.workdir import write_json

Packed = dict[str, float]
"""The relative error ||W - s q|| / ||W|| of each packed module, by its full name."""


def packs(plan: Plan) -> bool:
    """Whether any weights of the planned model are packed."""
    return any(spec.packs for spec in plan.specs)


def pack_model(
    source: Path,
    folder: Path,
    plan: Plan,
    facts: ModelFacts,
    text: TokenBlocks | None = None,
    *,
    device: Any = "cpu",
    compute: str | None = None,
    batch: int = 1,
    progress: Report = unreported,
) -> tuple[Mapping[str, str], Packed]:
    """Pack the model in folder `source`, which has the layers of `plan`, into the existing empty folder `folder`; returns
    the sha256 of each file, and the error of each packed module.

    text: what the inputs' statistics are taken on, if any storage needs them, with the model in `source` itself.
    device, compute: where and in which dtype that model runs. Raises LbdslError LB350 for inputs that gptq cannot use, and
    what `pass_over` raises.
    """
    return _Packer(source, folder, plan, facts, device, compute).save(text, batch, progress)


class _Packer:
    def __init__(self, source: Path, folder: Path, plan: Plan, facts: ModelFacts, device: Any, compute: str | None):
        self._source, self._folder, self._facts = source, folder, facts
        self._prefix = facts.family_data.layer_prefix
        self._device, self._compute = device, compute
        self._specs: tuple[LayerSpec, ...] = plan.specs
        self._matrices = {
            layer: [(tensor, storage) for tensor, storage in spec.matrices(facts) if storage.packs]
            for layer, spec in enumerate(plan.specs)
        }
        self._files = TensorFiles(source, getattr(torch, facts.dtype), "cpu")
        self._errors: Packed = {}

    def save(self, text: TokenBlocks | None, batch: int, progress: Report) -> tuple[Mapping[str, str], Packed]:
        spool = self._folder / ".packed"
        spool.mkdir()
        self._pack_layers(spool, text, batch, progress)
        self._write_weights(spool)
        shutil.rmtree(spool)
        weights = {info.file for info in self._files.infos.values()}
        for path in sorted(self._source.rglob("*")):
            name = path.relative_to(self._source)
            if path.is_file() and str(name) not in weights and not name.name.endswith(".index.json"):
                (self._folder / name).parent.mkdir(exist_ok=True)
                link_or_copy(path, self._folder / name)
        config = read_json_object(self._folder / "config.json")
        entry = quantization_config(self._specs, self._facts)
        if entry is not None:
            config[FIELD] = entry
        if any(len(tensor.shape) == 3 for matrices in self._matrices.values() for tensor, _ in matrices):
            config["lbdsl"]["packed"] = True
        write_json(self._folder / "config.json", config)
        return file_hashes(self._folder), self._errors

    def _pack_layers(self, spool: Path, text: TokenBlocks | None, batch: int, progress: Report) -> None:
        stats = {
            layer: tuple(dict.fromkeys(filter(None, (self._of_inputs(layer, *matrix) for matrix in matrices))))
            for layer, matrices in self._matrices.items()
        }
        wanted = {layer: known for layer, known in stats.items() if known}
        if wanted:
            assert text is not None, "storage that needs a statistic of inputs needs a text"
            model = StreamedModel(self._source, self._facts, self._device, self._compute)
            use = partial(self._pack_layer, spool)
            pass_over(model, self._facts, wanted, text, use, progress=progress, batch=batch)
        for layer in self._matrices:
            if layer not in wanted:
                self._pack_layer(spool, layer, {})
                progress(layer + 1, len(self._matrices), f"layer {layer}")

    def _pack_layer(self, spool: Path, layer: int, values: Mapping[str, Tensor]) -> None:
        prefix = self._prefix.format(layer)
        made: dict[str, Tensor] = {}
        matrices = self._matrices[layer]
        read = ((tensor.module, storage, partial(self._files.read, prefix + tensor.name)) for tensor, storage in matrices)
        largest = largest_of(read)
        for tensor, storage in matrices:
            weight = self._files.read(prefix + tensor.name)
            try:
                of = self._of_inputs(layer, tensor, storage)
                inputs = None if of is None else values[of.text]
                tensors = packed(storage, weight, inputs, largest.get((tensor.module.rpartition(".")[0], storage)))
            except ValueError as problem:
                said = f"{prefix}{tensor.module} cannot be stored as {storage.text()}: {problem}"
                raise fail("LB350", said, help="give more calibration text; `method=rtn` needs none") from None
            self._errors[prefix + tensor.module] = _relative(unpacked(storage, tensors), weight)
            made |= {f"{prefix}{tensor.module}.{name}": value.contiguous() for name, value in tensors.items()}
        if made:
            (spool / str(layer)).mkdir()
            save_file(made, spool / str(layer) / SINGLE)

    def _of_inputs(self, layer: int, tensor: TensorShape, storage: Storage) -> Stat | None:
        """What a matrix's storage needs of its inputs; those that read the same, as queries, keys and values do, share
        one."""
        found = storage.statistic(tensor.shape[-1])
        if found is None:
            return None
        kind, dims = found
        family = self._facts.family_data
        rows = next(rows for rows in family.rows.values() if any(row.name == tensor.name for row in rows))
        inputs = next(row.dims[1] for row in rows if row.name == tensor.name)
        there = self._specs[layer].linear_maps(self._facts)
        first = next(row for row in rows if row.dims[1:] == (inputs,) and row.module in there)
        return Stat(kind=kind, args=(("module", first.module),), dims=dims)

    def _write_weights(self, spool: Path) -> None:
        new: dict[str, MadeTensor] = {}
        where: dict[str, TensorInfo] = {}
        drop: set[str] = set()
        for layer, matrices in self._matrices.items():
            for tensor, storage in matrices:
                old = self._prefix.format(layer) + tensor.name
                names = {
                    f"{self._prefix.format(layer)}{tensor.module}.{name}": MadeTensor(*form, beside=old)
                    for name, form in storage.saved_tensors(tensor, self._facts).items()
                }
                new |= names
                drop |= {old} - names.keys()
            if matrices:
                place = spool / str(layer)
                where |= {name: replace(info, file=f"{layer}/{info.file}") for name, info in read_tensors(place).items()}

        def make(name: str) -> bytes:
            info = where[name]
            with (spool / info.file).open("rb") as stream:
                stream.seek(info.start)
                return stream.read(info.stop - info.start)

        carry_out(plan_rewrite(self._source, drop=drop, made=new), self._folder, make=make)


def _relative(found: Tensor, wanted: Tensor) -> float:
    off = size = 0.0
    found, wanted = found.flatten(0, -2), wanted.flatten(0, -2)
    rows = max(1, 2**22 // found.shape[1])
    for one, other in zip(found.split(rows), wanted.split(rows), strict=True):
        off += float((one.float() - other.float()).square().sum())
        size += float(other.float().square().sum())
    return math.sqrt(off / size) if size > 0 else 0.0
