"""The paths that rules can claim of a layer, as bits of whole numbers: sets of paths that are quick to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lbdsl.actions import Action
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec, has_path, leaves, touch
from lbdsl.parts import Slot
from lbdsl.plan.modules import chosen_modules
from lbdsl.recipe.schema import ModulesSelector, Recipe


@dataclass
class Paths:
    """The paths of one layer that anything asks about; path number i is bit i of a set. `touching[i]` is the set of those
    that touch it (see `lbdsl.layer.spec.touch`)."""

    names: list[str] = field(default_factory=list)
    touching: list[int] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def bit(self, path: str) -> int:
        """The set of that path alone."""
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
        found = 0
        for path in paths:
            found |= self.bit(path)
        return found

    def numbers(self, paths: int) -> Iterator[int]:
        while paths:
            low = paths & -paths
            yield low.bit_length() - 1
            paths ^= low

    def named(self, paths: int) -> tuple[str, ...]:
        return tuple(self.names[number] for number in self.numbers(paths))

    def touched_by(self, paths: int) -> int:
        """The set of paths that some of `paths` touches."""
        found = 0
        for number in self.numbers(paths):
            found |= self.touching[number]
        return found


@dataclass(frozen=True)
class Wanted:
    """An action of a rule, and by layer the paths that it claims there: 0 where the layer has not all of them, or none of
    the modules that the rule chooses."""

    action: Action
    paths: tuple[int, ...]

    def takes(self, layer: int, claimed: int) -> int:
        """What it takes of a layer of which nothing in `claimed` is free: all that it claims, or, where it is divisible,
        what is free."""
        free = self.paths[layer] & ~claimed
        return free if self.action.divisible or free == self.paths[layer] else 0


@dataclass(frozen=True)
class Claimable:
    """What the rules of a recipe claim of a model's layers. `paths`: of each layer; `wanted`: by rule, then by action."""

    paths: tuple[Paths, ...]
    wanted: tuple[tuple[Wanted, ...], ...]


def claimable(recipe: Recipe, facts: ModelFacts) -> Claimable:
    """The claims of a recipe's rules on the layers of a model."""
    # Layers that are alike share their paths, and rules with one action what it claims.
    of_spec = {spec: Paths() for spec in facts.layer_specs}
    paths = tuple(of_spec[spec] for spec in facts.layer_specs)
    alike: dict[LayerSpec, list[int]] = {}
    for layer, spec in enumerate(facts.layer_specs):
        alike.setdefault(spec, []).append(layer)
    known: dict[Action, Wanted] = {}

    def of_layers(action: Action) -> Wanted:
        if action not in known:
            found = [0] * facts.layers
            for spec, layers in alike.items():
                claimed = _claimed(action, spec, facts.linear_maps[layers[0]], False, of_spec[spec])
                for layer in layers:
                    found[layer] = claimed
            known[action] = Wanted(action, tuple(found))
        return known[action]

    def of_modules(action: Action, selector: ModulesSelector) -> Wanted:
        chosen = chosen_modules(selector, facts)
        return Wanted(
            action,
            tuple(_claimed(action, spec, chosen[i], True, paths[i]) for i, spec in enumerate(facts.layer_specs)),
        )

    return Claimable(
        paths,
        tuple(
            tuple(
                of_modules(action, rule.selector) if isinstance(rule.selector, ModulesSelector) else of_layers(action)
                for action in rule.actions
            )
            for rule in recipe.rules
        ),
    )


def _claimed(action: Action, spec: LayerSpec, modules: tuple[str, ...], only_weights: bool, paths: Paths) -> int:
    roots = action.claims()
    if only_weights:
        roots = tuple(root for root in roots if touch(root, Slot.WEIGHTS))
    if action.divisible:
        return paths.set_of(leaf for leaf in leaves(spec, modules) if any(touch(leaf, root) for root in roots))
    wanted = [path for root in roots for path in ([f"{root}.{m}" for m in modules] if root == Slot.WEIGHTS else [root])]
    gone = {slot.value for slot in (Slot.MIXER, Slot.FFN) if spec.part(slot) is None}
    # Of a part that the layer does not have, nothing is left to change.
    if gone.issuperset(wanted) or not all(has_path(spec, path) for path in wanted):
        return 0
    return paths.set_of(wanted)
