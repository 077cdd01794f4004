"""The rule table while it is read from top to bottom: who has claimed what so far."""

from __future__ import annotations

from dataclasses import dataclass

from lbdsl.actions import Action
from lbdsl.plan.claims import Slot, Wanted


@dataclass(frozen=True)
class Claim:
    """A slot of a layer, claimed by the rule at `rule` (an index, from 0) with `action`."""

    rule: int
    action: Action


@dataclass(frozen=True)
class Table:
    """Claims per slot and layer, and per rule read so far the layers that it matched, got and lost.

    A layer is got when the rule gets one of its changing actions there, or all that its `keep` wants; else it is lost:
    an earlier rule had claimed it. `sizes` holds the number of layers that each `until` rule took.
    """

    claims: dict[Slot, tuple[Claim | None, ...]]
    got: tuple[tuple[int, ...], ...] = ()
    lost: tuple[tuple[int, ...], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def empty(cls, slots: tuple[Slot, ...], layers: int) -> Table:
        return cls({slot: (None,) * layers for slot in slots})

    def free(self, wanted: tuple[Wanted, ...], layer: int) -> bool:
        """True when nothing that the rule wants of this layer is claimed."""
        return all(self.claims[slot][layer] is None for item in wanted for slot in item.of(layer))

    def some_free(self, wanted: tuple[Wanted, ...], layer: int) -> bool:
        return any(self.claims[slot][layer] is None for item in wanted for slot in item.of(layer))

    def take(self, wanted: tuple[Wanted, ...], layers: tuple[int, ...], *, size: int | None = None) -> Table:
        """The table after the next rule matched `layers`."""
        rule = len(self.got)
        claims = {slot: list(row) for slot, row in self.claims.items()}
        got: list[int] = []
        lost: list[int] = []
        for layer in layers:
            success = False
            for item in wanted:
                slots = item.of(layer)
                free = [slot for slot in slots if claims[slot][layer] is None]
                whole = len(free) == len(slots)
                if whole or item.divisible:
                    claim = Claim(rule, item.action)
                    for slot in free:
                        claims[slot][layer] = claim
                success = success or whole or (bool(free) and item.divisible and not item.action.keeps)
            (got if success else lost).append(layer)
        sizes = self.sizes if size is None else (*self.sizes, (rule, size))
        return Table(
            {slot: tuple(row) for slot, row in claims.items()}, (*self.got, tuple(got)), (*self.lost, tuple(lost)), sizes
        )

    def actions(self, layer: int) -> tuple[Action, ...]:
        """The actions that a layer got, each once."""
        found: list[Action] = []
        for row in self.claims.values():
            claim = row[layer]
            if claim is not None and not any(claim.action is action for action in found):
                found.append(claim.action)
        return tuple(found)
