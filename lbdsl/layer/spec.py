"""LayerSpec: the specification of one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, SerializeAsAny

from lbdsl.parts import ModelShape, Part, Slot, TensorShape, parts
from lbdsl.parts.base import Storage, Value


def part_from(value: Any, slot: Slot) -> Part | None:
    """A part from a part or its JSON; raises ValueError that names an unknown kind, field or value."""
    if value is None and slot is not Slot.WEIGHTS:
        return None
    if isinstance(value, Mapping):
        kind = value.get("kind")
        known = {name: cls for name, cls in parts().items() if cls.slot is slot}
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(
                f"no part kind of a layer's {slot} is called {kind!r}; known: {', '.join(known)}; that of a plug-in needs "
                "the plug-in installed, or named in LBDSL_PLUGINS"
            )
        return known[kind].model_validate(dict(value))
    if isinstance(value, Part) and value.slot is slot:
        return value
    raise ValueError(f"a layer's {slot} is a part kind with its fields, not {value!r}")


def _pairs(value: Any) -> tuple[tuple[str, Part], ...]:
    if not isinstance(value, Mapping | tuple):
        raise ValueError(f"`weights` maps modules to how they are stored, not {value!r}")
    return tuple(sorted((str(name), _storage(item)) for name, item in dict(value).items()))


def _storage(value: Any) -> Part:
    part = part_from(value, Slot.WEIGHTS)
    assert part is not None
    return part


def _json(weights: tuple[tuple[str, Part], ...]) -> dict[str, Any]:
    return {name: part.model_dump(mode="json") for name, part in weights}


MixerField = Annotated[SerializeAsAny[Part] | None, BeforeValidator(lambda value: part_from(value, Slot.MIXER))]
FfnField = Annotated[SerializeAsAny[Part] | None, BeforeValidator(lambda value: part_from(value, Slot.FFN))]
Weights = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_pairs), PlainSerializer(_json)]


class LayerSpec(Value):
    """One decoder layer. `mixer` and `ffn` are None if the layer has none; `weights` are (module, storage) of the modules
    whose matrix is not in the model's dtype, sorted by name relative to the layer. Equal specifications compare equal and
    have the same hash."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    mixer: MixerField
    ffn: FfnField
    weights: Weights = ()

    def part(self, slot: Slot) -> Part | None:
        """The mixer or the ffn."""
        return {Slot.MIXER: self.mixer, Slot.FFN: self.ffn}[slot]

    @property
    def sub_blocks(self) -> tuple[tuple[Slot, Part], ...]:
        """Its mixer and ffn, of those that it has."""
        both = ((Slot.MIXER, self.mixer), (Slot.FFN, self.ffn))
        return tuple((slot, part) for slot, part in both if part is not None)

    def storage(self, module: str) -> Storage | None:
        return dict(self.weights).get(module)

    @property
    def packs(self) -> bool:
        """Whether any weights are stored in tensors of another form."""
        return any(storage.packs for _, storage in self.weights)

    @property
    def needs_inputs(self) -> bool:
        """Whether any weights are stored with the help of their inputs on calibration text."""
        return any(storage.statistic(1) is not None for _, storage in self.weights)

    def tensors(self, model: ModelShape) -> tuple[TensorShape, ...]:
        """The layer's parameters, including the norms around its sub-blocks, attention first."""
        found: list[TensorShape] = []
        for slot, part in self.sub_blocks:
            before, after = model.norms(slot)
            found += model.shaped((before,) if before else (), {})
            found += part.tensors(model)
            found += model.shaped((after,) if after else (), {})
        return tuple(found)

    def linear_maps(self, model: ModelShape) -> tuple[str, ...]:
        """Modules with a weight matrix, by name relative to the layer."""
        return tuple(tensor.module for tensor in self.tensors(model) if tensor.is_matrix)

    def stored(self, model: ModelShape) -> LayerSpec:
        """The specification without the storage of modules that the layer no longer has, and with what storage leaves open
        as it fits the base model `model`."""
        if not self.weights:
            return self
        left = set(self.linear_maps(model))
        return self.replace(weights=tuple((name, part.fitted(model)) for name, part in self.weights if name in left))

    def matrices(self, model: ModelShape) -> Iterator[tuple[TensorShape, Storage]]:
        """The matrices that are not in the model's dtype, and how they are stored."""
        for tensor in self.tensors(model):
            storage = self.storage(tensor.module) if tensor.is_matrix else None
            if storage is not None:
                yield tensor, storage

    def to_json(self) -> dict[str, Any]:
        """As in `config.json`'s `lbdsl.layers`."""
        return self.model_dump(mode="json")
