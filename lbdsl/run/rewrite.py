"""Run a plan on disk: tensors are dropped or computed from the layer's old ones, without loading the model.

The result is the same as loading, changing and saving the model, tensor for tensor and file for file, except how the
tensors are distributed over shards. Healing, and parts with randomly initialized weights, need the loaded model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbdsl.artifact.contents import file_hashes
from lbdsl.artifact.save import save_all_but_weights
from lbdsl.core.progress import Report
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.weights import AnyExpr
from lbdsl.measure.expressions import tensor_of
from lbdsl.measure.skeleton import skeleton_of, stand_in
from lbdsl.measure.taken import NO_STATISTICS, StatisticsOf
from lbdsl.measure.tensor_files import TensorFiles
from lbdsl.model.checkpoint import read_tensors
from lbdsl.plan.schema import LayerPlan, Plan
from lbdsl.run.changes import Made, apply_changes
from lbdsl.run.file_layout import MadeTensor, RewritePlan, plan_rewrite
from lbdsl.run.shards import carry_out


@dataclass(frozen=True, eq=False, repr=False)
class Rewriting:
    """A plan's changes as a rewrite of the base's checkpoint files. `records` are those of `apply_changes`."""

    _model: Any
    records: tuple[dict[str, Any], ...]
    _weights: RewritePlan
    _facts: ModelFacts
    _made: Mapping[str, tuple[int, AnyExpr]]
    _source: Path
    _statistics: StatisticsOf

    def bytes_to_write(self, folder: Path) -> int:
        """Disk space that the result needs in `folder` (which need not exist yet): unchanged files are hard links and
        need none if `folder` is on the same file system as the base."""
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        files = {shard.source for shard in self._weights.shards}
        same = all((self._weights.source / file).stat().st_dev == existing.stat().st_dev for file in files)
        return (self._weights.bytes_to_write if same else self._weights.total_size) + 2**20

    def save(self, tokenizer: Any, folder: Path, progress: Report | None = None) -> Mapping[str, str]:
        """Write the changed model into the existing `folder`; returns the sha256 of each file, as `save_model` does.

        Raises OSError, which the caller must handle, and LB419 if the base's checkpoint changes meanwhile.
        """
        save_all_but_weights(self._model, tokenizer, self._facts.dtype, folder)
        dtype = getattr(torch, self._facts.dtype)
        files = TensorFiles(self._source, dtype, "cpu")

        def make(name: str) -> bytes:
            """The bytes of a new weight, computed from its layer's old weights, which are read only for this, or of one
            that the files have in pieces."""
            if name in self._made:
                layer, expr = self._made[name]
                prefix = self._facts.family_data.layer_prefix.format(layer)
                made = tensor_of(expr, lambda old: files.read(prefix + old), self._statistics(layer), dtype)
            else:
                made = files.read(name)
            return made.view(torch.uint8).numpy().tobytes()

        carry_out(self._weights, folder, cast=cast, make=make, progress=progress)
        return file_hashes(folder)


def rewriting_of(plan: Plan, facts: ModelFacts, source: Path, statistics: StatisticsOf = NO_STATISTICS) -> Rewriting | None:
    """The rewrite that applies `plan` to the checkpoint in folder `source` without loading it; None if impossible.

    Reads only headers. Raises what `lbdsl.model.checkpoint.read_tensors` raises.
    """
    model = skeleton_of(source, facts)
    records = apply_changes(model, plan, _stand_ins(facts))
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = read_tensors(source)
    rename = _other_name_of_a_tied_head(wanted, found, facts)
    made = _made(plan, facts)
    left = {rename.get(name, name): info.shape for name, info in found.items() if rename.get(name, name) in wanted}
    left |= {name: wanted[name] for name in made}
    if left != wanted or any(module._buffers.keys() - module._non_persistent_buffers_set for module in model.modules()):
        return None
    drop = {name for name in found if rename.get(name, name) not in wanted}
    pieced = [name for name, info in found.items() if info.pieces and name in wanted]
    new = {name: MadeTensor(facts.dtype, wanted[name]) for name in (*made, *pieced)}
    weights = plan_rewrite(source, drop=drop, rename=rename, dtype=facts.dtype, made=new)
    return Rewriting(model, records, weights, facts, made, source, statistics)


def _stand_ins(facts: ModelFacts) -> Made:
    """A function that returns placeholders with the shapes of new parameters."""

    def made(model: Any, layer: LayerPlan) -> dict[str, Any]:
        old = {tensor.name: tensor.shape for tensor in layer.before.tensors(facts)}
        return {name: stand_in(expr.shape(old), model.dtype) for name, expr in layer.weights.items()}

    return made


def _made(plan: Plan, facts: ModelFacts) -> dict[str, tuple[int, AnyExpr]]:
    """The layer and the expression of each new weight, by its full name."""
    prefix = facts.family_data.layer_prefix
    return {
        prefix.format(layer.index) + name: (layer.index, expr)
        for layer in plan.layers
        for name, expr in layer.weights.items()
    }


def _other_name_of_a_tied_head(wanted: Mapping[str, Any], found: Mapping[str, Any], facts: ModelFacts) -> dict[str, str]:
    """The renaming of a tied matrix that a converted checkpoint has under the head's name to the embedding's name."""
    missing = [name for name in wanted if name not in found]
    heads = [name for name in found if name.startswith("lm_head.")]
    return {heads[0]: missing[0]} if facts.tied and len(missing) == len(heads) == 1 else {}


def cast(data: bytearray, old: str, new: str) -> bytes:
    """Cast elements between floating-point dtypes, with the same rounding as loading the model in dtype `new`."""
    elements = torch.frombuffer(data, dtype=getattr(torch, old)).to(getattr(torch, new))
    return elements.view(torch.uint8).numpy().tobytes()
