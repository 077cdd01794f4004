"""Weights as their storage holds them: rounded for measurements, and read back from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import weight_of
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.tensor_files import TensorFiles
from lbdsl.packing import largest_of, packed, unpacked


@torch.no_grad()
def rounded_weights(model: Any, layer: int, spec: LayerSpec, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of a layer of a hybrid model that `spec` packs, as they will be after saving and loading, by name
    relative to the layer. `made` has the new weights, all others are the model's. Rounded to nearest, whatever the method.
    """
    old = model.model.layers[layer]
    saved = getattr(torch, getattr(model, "saved_dtype", None) or str(model.dtype).removeprefix("torch."))
    found, names = {}, dict(old.named_parameters())

    def weight_in(module: str) -> Tensor:
        name = weight_of(module, names)
        return made[name] if name in made else old.get_parameter(name)

    packing = [(module, stored) for module, stored in spec.weights if stored.packs]
    largest = largest_of(
        (module, stored, partial(lambda it: weight_in(it).to(saved), module)) for module, stored in packing
    )
    for module, stored in spec.weights:
        if stored.packs:
            name, weight = weight_of(module, names), weight_in(module)
            # What was made for it alone is overwritten: experts are large.
            into = weight if name in made and weight.device.type == "cpu" and weight.dtype == saved else None
            most = largest.get((module.rpartition(".")[0], stored))
            rounded = unpacked(stored, packed(stored, weight.to("cpu", saved), largest=most), into).to(saved)
            found[name] = rounded.to(device=weight.device, dtype=model.dtype)
    return found


class RoundedModel(LoadedModel):
    """A hybrid model in memory with the matrices that its layers pack as `rounded_weights`; one layer at a time."""

    in_memory = False

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        layer = self.hybrid.model.layers[index]
        spec = LayerSpec.model_validate(layer.spec)
        rounded = rounded_weights(self.hybrid, index, spec, {})
        yield self.hybrid.model.layer_variant(index, spec.to_json(), rounded) if rounded else layer


def stored_parameters(
    files: TensorFiles, spec: LayerSpec, prefix: str, names: Iterable[str]
) -> Iterator[tuple[str, Tensor]]:
    """Parameters of a layer of a checkpoint with their names relative to the layer; packed matrices are unpacked.

    prefix: what names in the checkpoint have before them."""
    for name in names:
        module = name.removesuffix(".weight")
        stored = spec.storage(module)
        # Before its last step a model is saved with matrices that will be packed.
        if stored is None or f"{prefix}{module}.weight_scale" not in files.infos:
            yield name, files.read(prefix + name)
        else:
            start = f"{prefix}{module}."
            parts = [full for full in files.infos if full.startswith(start) and full != f"{start}bias"]
            tensors = {full.removeprefix(start): files.read(full, as_stored=True) for full in parts}
            yield name, files.cast(unpacked(stored, tensors))
