"""The rule table while it is read from top to bottom: who has claimed what so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lbdsl.actions import Action
from lbdsl.layer.spec import LayerSpec, with_paths_of
from lbdsl.parts import Slot
from lbdsl.plan.paths import Paths, Wanted


class Take(NamedTuple):
    """Paths of a layer (see `lbdsl.plan.paths`) that the rule at `rule` (an index, from 0) took with `action`."""

    rule: int
    action: Action
    paths: int


@dataclass(frozen=True)
class Table:
    """What is taken of each layer, and the paths that are touched by that; per rule read so far the layers that it matched,
    got and lost.

    A layer is got when the rule takes something with one of its changing actions there, or all that its `keep` claims;
    else it is lost: an earlier rule had claimed it. `sizes` holds the number of layers that each `until` rule took.
    """

    paths: tuple[Paths, ...]
    takes: tuple[tuple[Take, ...], ...]
    claimed: tuple[int, ...]
    got: tuple[tuple[int, ...], ...] = ()
    lost: tuple[tuple[int, ...], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def empty(cls, paths: tuple[Paths, ...]) -> Table:
        return cls(paths, ((),) * len(paths), (0,) * len(paths))

    def is_rest(self, wanted: tuple[Wanted, ...], layer: int) -> bool:
        """True when the rule claims something of this layer, and nothing that it claims is touched."""
        return any(item.paths[layer] for item in wanted) and not any(
            item.paths[layer] & self.claimed[layer] for item in wanted
        )

    def some_free(self, wanted: tuple[Wanted, ...], layer: int) -> bool:
        return any(item.paths[layer] & ~self.claimed[layer] for item in wanted)

    def take(self, wanted: tuple[Wanted, ...], layers: tuple[int, ...], *, size: int | None = None) -> Table:
        """The table after the next rule matched `layers`."""
        rule = len(self.got)
        takes, claimed = list(self.takes), list(self.claimed)
        got: list[int] = []
        lost: list[int] = []
        for layer in layers:
            success = False
            for item in wanted:
                taken = item.takes(layer, claimed[layer])
                if taken:
                    takes[layer] = (*takes[layer], Take(rule, item.action, taken))
                    claimed[layer] |= self.paths[layer].touched_by(taken)
                    success = success or not item.action.keeps or taken == item.paths[layer]
            (got if success else lost).append(layer)
        sizes = self.sizes if size is None else (*self.sizes, (rule, size))
        return Table(self.paths, tuple(takes), tuple(claimed), (*self.got, tuple(got)), (*self.lost, tuple(lost)), sizes)

    def owner(self, layer: int, paths: int) -> Take | None:
        """What the first rule took of a layer that touches `paths`."""
        return next((take for take in self.takes[layer] if self.paths[layer].touched_by(take.paths) & paths), None)


def planned_spec(base: LayerSpec, takes: Iterable[Take], paths: Paths, maps: tuple[str, ...]) -> LayerSpec:
    """What a layer becomes: each action's values at the paths that it took, on the base's specification. The order of
    `takes` does not matter, for none of their paths touch. `maps` are the layer's linear maps."""
    spec = base
    for take in takes:
        if not take.action.keeps:
            taken = paths.named(take.paths)
            spec = with_paths_of(spec, take.action.change(base, _modules(taken) or maps), taken)
    return spec


def _modules(taken: tuple[str, ...]) -> tuple[str, ...]:
    prefix = f"{Slot.WEIGHTS}."
    return tuple(path.removeprefix(prefix) for path in taken if path.startswith(prefix))
