"""The paths of a model's layers that rules claim (see `lbdsl.layer.paths`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from lbdsl.actions import Action
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import ModulesSelector, Pattern, String
from lbdsl.layer.paths import Paths, has_path, leaves, touch
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Slot
from lbdsl.recipe.patterns import matcher
from lbdsl.recipe.schema import Recipe, Rule


class Module(NamedTuple):
    """A module with a weight matrix: `model.layers.3.self_attn.k_proj` is `self_attn.k_proj` of layer 3."""

    name: str
    layer: int
    part: str


def layer_modules(facts: ModelFacts) -> tuple[Module, ...]:
    prefix = facts.family_data.layer_prefix
    return tuple(Module(prefix.format(i) + part, i, part) for i, maps in enumerate(facts.linear_maps) for part in maps)


def matched(patterns: Iterable[Pattern | String], facts: ModelFacts) -> tuple[Module, ...]:
    """The modules whose full name matches one of a rule's patterns, in any layer."""
    tests = [matcher(pattern.value, glob=isinstance(pattern, String)) for pattern in patterns]
    return tuple(module for module in layer_modules(facts) if any(test(module.name) for test in tests))


@dataclass(frozen=True)
class Wanted:
    """An action of a rule, and the paths that it claims, by layer: 0 if the layer does not have all of them, or none of the
    modules that the rule selects."""

    action: Action
    paths: tuple[int, ...]

    def takes(self, layer: int, claimed: int) -> int:
        """The paths that it takes from a layer where those in `claimed` are not free: all that it claims or nothing; if it
        is divisible, all that are free."""
        free = self.paths[layer] & ~claimed
        return free if self.action.divisible or free == self.paths[layer] else 0


def claimable(recipe: Recipe, facts: ModelFacts) -> tuple[tuple[Paths, ...], tuple[tuple[Wanted, ...], ...]]:
    """The paths of each layer that a recipe's rules claim, and what they claim, by rule, then by action."""
    # Identical layers share their paths, and rules with the same action share its claims.
    specs, maps = facts.layer_specs, facts.linear_maps
    first: dict[LayerSpec, int] = {}
    alike = [first.setdefault(spec, layer) for layer, spec in enumerate(specs)]
    kinds = {layer: Paths() for layer in alike}

    @cache
    def of_layers(action: Action) -> Wanted:
        claimed = {i: _claimed(action, specs[i], maps[i], False, paths) for i, paths in kinds.items()}
        return Wanted(action, tuple(claimed[i] for i in alike))

    def of_rule(rule: Rule) -> tuple[Wanted, ...]:
        if not isinstance(rule.selector, ModulesSelector):
            return tuple(of_layers(action) for action in rule.actions)
        chosen: list[tuple[str, ...]] = [()] * facts.layers
        for module in matched(rule.selector.patterns, facts):
            chosen[module.layer] += (module.part,)
        return tuple(
            Wanted(action, tuple(_claimed(action, specs[i], chosen[i], True, kinds[k]) for i, k in enumerate(alike)))
            for action in rule.actions
        )

    return tuple(kinds[i] for i in alike), tuple(of_rule(rule) for rule in recipe.rules)


def _claimed(action: Action, spec: LayerSpec, modules: tuple[str, ...], only_weights: bool, paths: Paths) -> int:
    roots = action.claims()
    if only_weights:
        roots = tuple(root for root in roots if touch(root, Slot.WEIGHTS))
    if action.divisible:
        return paths.set_of(leaf for leaf in leaves(spec, modules) if any(touch(leaf, root) for root in roots))
    wanted = [path for root in roots for path in ([f"{root}.{m}" for m in modules] if root == Slot.WEIGHTS else [root])]
    gone = {slot.value for slot in (Slot.MIXER, Slot.FFN) if spec.part(slot) is None}
    # There is nothing to change in a part that the layer does not have.
    if gone.issuperset(wanted) or not all(has_path(spec, path) for path in wanted):
        return 0
    return paths.set_of(wanted)
