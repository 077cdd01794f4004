"""The rule table while rules are applied from top to bottom: which rule has claimed what so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from lbdsl.actions import Action
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.paths import Paths, with_paths_of
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.solve.case import KnownRule

Choices = Mapping[int, int]
"""The number of the alternative that a `choose` gives each of its layers."""

Key = tuple[tuple[int, int], ...]
"""A choice as a value."""


def key_of(chosen: Choices) -> Key:
    return tuple(sorted(chosen.items()))


class TakenPaths(NamedTuple):
    """Paths of a layer (see `Paths`) that the rule at `rule` (an index, from 0) took with `action`."""

    rule: int
    action: Action
    paths: int


class RuleOutcome(NamedTuple):
    """The layers that a rule got, those that it matched but an earlier rule had claimed, and for `until` the number taken.

    A rule gets a layer when it takes something there with one of its changing actions, or all that its `keep` claims;
    else an earlier rule had claimed it. `else` applies to what is left, so it is never shadowed.
    """

    claims: tuple[int, ...]
    shadowed: tuple[int, ...]
    taken: int | None = None


@dataclass(frozen=True)
class Table:
    """What is taken of each layer, the paths that this touches, and the outcomes of the rules applied so far."""

    paths: tuple[Paths, ...]
    takes: tuple[tuple[TakenPaths, ...], ...]
    claimed: tuple[int, ...]
    rules: tuple[RuleOutcome, ...] = ()

    @classmethod
    def empty(cls, paths: tuple[Paths, ...]) -> Table:
        return cls(paths, ((),) * len(paths), (0,) * len(paths))

    def rest(self, known: KnownRule, layers: Iterable[int]) -> tuple[int, ...]:
        """Those of `layers` where the rule claims something, and nothing that it claims is touched yet."""
        return tuple(i for i in layers if known.paths[i] and not known.paths[i] & self.claimed[i])

    def take(
        self, known: KnownRule, layers: Iterable[int], *, size: int | None = None, chosen: Choices = MappingProxyType({})
    ) -> Table:
        """The table after the next rule matched `layers`; `chosen` are the alternatives that a `choose` gives them."""
        rule, takes, claimed = len(self.rules), list(self.takes), list(self.claimed)
        got: list[int] = []
        lost: list[int] = []
        for layer in layers:
            among = None if known.choosing is None else known.choosing.alternatives[chosen[layer]]
            success = among is not None
            for item in known.wanted:
                taken = item.takes(layer, claimed[layer])
                if among is not None and item.action.keeps:
                    # It keeps what the other alternatives change, and no more.
                    taken &= self.paths[layer].touched_by(known.paths[layer])
                if taken and (among is None or item.action in among):
                    takes[layer] = (*takes[layer], TakenPaths(rule, item.action, taken))
                    claimed[layer] |= self.paths[layer].touched_by(taken)
                    success = success or not item.action.keeps or taken == item.paths[layer]
            (got if success else lost).append(layer)
        outcome = RuleOutcome(tuple(got), () if known.is_else else tuple(lost), size)
        return Table(self.paths, tuple(takes), tuple(claimed), (*self.rules, outcome))

    def owners(self, known: KnownRule, layers: Iterable[int]) -> dict[int, list[int]]:
        """`layers`, grouped by the first rule that took something there that this one claims."""
        found: dict[int, list[int]] = {}
        for layer in layers:
            touched = self.paths[layer].touched_by(known.paths[layer])
            owner = next((take.rule for take in self.takes[layer] if take.paths & touched), None)
            if owner is not None:
                found.setdefault(owner, []).append(layer)
        return dict(sorted(found.items()))

    def spec(self, facts: ModelFacts, layer: int) -> LayerSpec:
        """The resulting specification of a layer: the base's, with each action's values at the paths that it took. The
        order of the takes does not matter, because their paths do not touch."""
        base = spec = facts.layer_specs[layer]
        prefix = f"{Slot.WEIGHTS}."
        for take in self.takes[layer]:
            if not take.action.keeps:
                taken = self.paths[layer].named(take.paths)
                modules = tuple(path.removeprefix(prefix) for path in taken if path.startswith(prefix))
                changed = take.action.change(base, modules or facts.linear_maps[layer])
                spec = with_paths_of(spec, changed, taken)
        return spec.stored(facts)
