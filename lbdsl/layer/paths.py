"""The paths of a layer that rules claim and change: fields of its parts, weights of its modules. Sets of paths are bit
masks in integers, which are fast to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from lbdsl.core.diagnostic import fail
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot


def touch(a: str, b: str) -> bool:
    """Whether two paths are equal, or one is a prefix of the other."""
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def leaves(spec: LayerSpec, modules: tuple[str, ...]) -> Iterator[str]:
    """Every path of a layer with these linear maps: the fields of its parts, and the weights of its modules."""
    for slot in (Slot.MIXER, Slot.FFN):
        part = spec.part(slot)
        names = part.field_names() if part is not None else ()
        yield from (f"{slot}.{name}" for name in names) if names else (slot.value,)
    yield from (f"{Slot.WEIGHTS}.{module}" for module in modules)


def folded(paths: Iterable[str], every: Iterable[str]) -> tuple[str, ...]:
    """`paths`, sorted, where a part's name replaces its paths if all its paths in `every` are included."""
    left, every = set(paths), tuple(every)
    for slot in Slot:
        below = {path for path in every if path.startswith(f"{slot}.")}
        if below and below <= left:
            left = (left - below) | {slot.value}
    return tuple(sorted(left))


def has_path(spec: LayerSpec, path: str) -> bool:
    """False for a field of a part that the layer does not have."""
    slot, _, rest = path.partition(".")
    if slot == Slot.WEIGHTS:
        return True
    value: Any = getattr(spec, slot, None)
    if not rest:
        return slot in (Slot.MIXER, Slot.FFN)
    for name in rest.split("."):
        if value is None or name not in type(value).model_fields:
            return False
        value = getattr(value, name)
    return True


def with_paths_of(spec: LayerSpec, other: LayerSpec, paths: tuple[str, ...]) -> LayerSpec:
    """`spec` with the values of `other` at `paths`. Raises LB339 for values that do not go together."""
    for path in paths:
        slot, _, rest = path.partition(".")
        if path == Slot.WEIGHTS:
            spec = spec.replace(weights=other.weights)
        elif slot == Slot.WEIGHTS:
            kept = {name: part for name, part in spec.weights if name != rest}
            stored = other.storage(rest)
            spec = spec.replace(weights={**kept, rest: stored} if stored is not None else kept)
        else:
            try:
                part = _set(getattr(spec, slot), getattr(other, slot), rest)
            except ValidationError as problem:
                said = problem.errors()[0]["msg"].removeprefix("Value error, ")
                help = "leave one of them out, or take it from other layers"
                raise fail("LB339", f"what is made of the layer does not go together: {said}", help=help) from None
            spec = spec.replace(**{slot: part})
    return spec


def _set(value: Any, other: Any, path: str) -> Any:
    if not path or value == other:
        return other
    name, _, rest = path.partition(".")
    return value.replace(**{name: _set(getattr(value, name), getattr(other, name), rest)})


@dataclass
class Paths:
    """The paths of one layer that were registered with `bit`; path number i is bit i of a set. `touching[i]` is the set
    of paths that touch path i."""

    names: list[str] = field(default_factory=list)
    touching: list[int] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def bit(self, path: str) -> int:
        """The set with only this path."""
        number = self._numbers.get(path)
        if number is None:
            number = self._numbers[path] = len(self.names)
            own = 1 << number
            for other, name in enumerate(self.names):
                if touch(path, name):
                    own |= 1 << other
                    self.touching[other] |= 1 << number
            self.names.append(path)
            self.touching.append(own)
        return 1 << number

    def set_of(self, paths: Iterable[str]) -> int:
        return union(self.bit(path) for path in paths)

    def numbers(self, paths: int) -> Iterator[int]:
        while paths:
            low = paths & -paths
            yield low.bit_length() - 1
            paths ^= low

    def named(self, paths: int) -> tuple[str, ...]:
        return tuple(self.names[number] for number in self.numbers(paths))

    def touched_by(self, paths: int) -> int:
        """The set of paths that touch at least one of `paths`."""
        return union(self.touching[number] for number in self.numbers(paths))


def union(sets: Iterable[int]) -> int:
    found = 0
    for paths in sets:
        found |= paths
    return found
