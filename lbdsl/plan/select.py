"""Selection: what each layer becomes, and by which rules. A pure function of its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from lbdsl.actions import Action
from lbdsl.actions.base import made_weights
from lbdsl.core.diagnostic import Diagnosed, Diagnostic
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, Request
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec, with_paths_of
from lbdsl.layer.weights import AnyExpr, LayerChange, Stat, stats_by_layer
from lbdsl.plan.check import check_recipe
from lbdsl.plan.lint import selection_findings
from lbdsl.plan.match import Match, match_rules, ranks_rest
from lbdsl.plan.paths import Paths, claimable
from lbdsl.plan.table import Table, Take, planned_spec
from lbdsl.plan.until import resolve
from lbdsl.plan.words import ordinal
from lbdsl.recipe.schema import ElseSelector, RankSelector, Recipe, Rule


@dataclass(frozen=True)
class Taken:
    """The paths of a layer that a rule, by its number, took with an action. `effective`: the layer is another one for
    it; how a part that is gone is stored changes nothing."""

    action: Action
    rule: int
    paths: tuple[str, ...]
    effective: bool


@dataclass(frozen=True)
class LayerChoice:
    """What a layer was and what it becomes, how its new weights are made, what the rules took of it, and why."""

    index: int
    base: LayerSpec
    spec: LayerSpec
    weights: tuple[tuple[str, AnyExpr], ...]
    taken: tuple[Taken, ...]
    reason: str

    @property
    def change(self) -> LayerChange:
        return LayerChange(self.spec, self.weights)

    @property
    def changed(self) -> bool:
        return self.spec != self.base or bool(self.weights)

    @property
    def changing(self) -> tuple[Action, ...]:
        """The actions that change the layer, each once."""
        return tuple(dict.fromkeys(item.action for item in self.taken if item.effective))


@dataclass(frozen=True)
class RuleOutcome:
    """The layers that a rule got, those that it matched but an earlier rule had claimed, and for `until` how many it
    took."""

    number: int
    claims: tuple[int, ...]
    shadowed: tuple[int, ...]
    taken: int | None = None


@dataclass(frozen=True)
class Selection:
    """What is done to every layer. Two selections that change the model alike have one digest, whatever their rules."""

    layers: tuple[LayerChoice, ...]
    rules: tuple[RuleOutcome, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 over what each layer becomes: what a joint measurement is keyed by."""
        return digest_of([layer.change.to_json() for layer in self.layers])

    @property
    def changed(self) -> tuple[int, ...]:
        return tuple(layer.index for layer in self.layers if layer.changed)

    @property
    def used_statistics(self) -> dict[int, tuple[Stat, ...]]:
        """By layer, those that its new weights are made from."""
        return stats_by_layer({layer.index: dict(layer.weights).values() for layer in self.layers})

    @property
    def carried_out(self) -> bool:
        """False when something has an action that this version only plans."""
        return all(action.carried_out for layer in self.layers for action in layer.changing)

    @property
    def changes(self) -> Mapping[int, LayerChange]:
        """What the changed layers become."""
        return MappingProxyType({i: self.layers[i].change for i in self.changed})

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """What every layer becomes."""
        return tuple(layer.spec for layer in self.layers)


def select(recipe: Recipe, facts: ModelFacts, measurements: Mapping[Request, Measurement]) -> Diagnosed[Selection]:
    """Read the table from top to bottom; the first rule that matches a layer claims it.

    Errors: layers that the model does not have, a score that is missing or NaN, an `until` that cannot be met, a
    requirement on the model that does not hold. All of them are returned at once where one does not hide another.
    """
    problems = check_recipe(recipe, facts)
    if problems:
        return Diagnosed(None, problems)
    claims = claimable(recipe, facts)
    matched = match_rules(recipe, facts, claims, measurements)
    if matched.value is None:
        return Diagnosed(None, matched.diagnostics)
    resolved = resolve(recipe, facts, matched.value, Table.empty(claims.paths))
    if resolved.value is None:
        return Diagnosed(None, matched.diagnostics + resolved.diagnostics)
    table = resolved.value
    reasons = tuple(
        _reasons(rule, match, got) for rule, match, got in zip(recipe.rules, matched.value, table.got, strict=True)
    )
    layers = tuple(_layer(recipe, facts, table, reasons, index) for index in range(facts.layers))
    sizes = dict(table.sizes)
    # `else` is about what is left, so nothing of it is ever shadowed.
    lost = tuple(
        () if isinstance(rule.selector, ElseSelector) else shadowed
        for rule, shadowed in zip(recipe.rules, table.lost, strict=True)
    )
    rules = tuple(RuleOutcome(rule.number, table.got[i], lost[i], sizes.get(i)) for i, rule in enumerate(recipe.rules))
    selection = Selection(layers, rules)
    acting = {item.rule for layer in layers for item in layer.taken if item.effective}
    found = selection_findings(recipe, facts, matched.value, table, selection.specs, acting)
    found += tuple(_model_findings(recipe, facts, table))
    return Diagnosed(None if any(d.is_error for d in found) else selection, matched.diagnostics + found)


def _reasons(rule: Rule, match: Match, got: tuple[int, ...]) -> dict[int, str]:
    """Why each layer of a rule is in it."""
    reasons = dict(match.reasons)
    if isinstance(rule.selector, RankSelector) and ranks_rest(rule.selector):
        ranked = [layer for layer in match.layers or () if layer in got]
        return {
            layer: f"{reasons[layer]}: {ordinal(place)} {rule.selector.direction} of the rest"
            for place, layer in enumerate(ranked, start=1)
        }
    return reasons


def _layer(recipe: Recipe, facts: ModelFacts, table: Table, reasons: tuple[dict[int, str], ...], index: int) -> LayerChoice:
    base, paths, takes = facts.layer_specs[index], table.paths[index], table.takes[index]
    spec = planned_spec(base, takes, paths, facts.linear_maps[index]).stored(facts)
    taken = tuple(_taken(recipe, facts, base, spec, paths, take) for take in takes)
    acting = [take for take, item in zip(takes, taken, strict=True) if item.effective]
    weights = made_weights(dict.fromkeys(take.action for take in acting), base, spec, facts)
    owner = next(iter((*acting, *takes)), None)
    if owner is None:
        return LayerChoice(index, base, spec, weights, taken, "no rule claims it")
    reason = reasons[owner.rule].get(index, "left by the rules before")
    because = recipe.rules[owner.rule].because
    return LayerChoice(index, base, spec, weights, taken, f"{reason}; {because}" if because else reason)


def _taken(recipe: Recipe, facts: ModelFacts, base: LayerSpec, spec: LayerSpec, paths: Paths, take: Take) -> Taken:
    named = paths.named(take.paths)
    made = take.action.weights(base, spec, facts)
    effective = not take.action.keeps and (
        with_paths_of(base, spec, named) != base or any(tensor.name in made for tensor in spec.tensors(facts))
    )
    return Taken(take.action, recipe.rules[take.rule].number, named, effective)


def _model_findings(recipe: Recipe, facts: ModelFacts, table: Table) -> Iterator[Diagnostic]:
    """What the chosen actions say of this model, each thing once, at the rule that chose the action."""
    seen: set[tuple[str, str]] = set()
    for index, takes in enumerate(table.takes):
        for take in takes:
            for finding in take.action.check(facts, index):
                if (finding.code, finding.message) not in seen:
                    seen.add((finding.code, finding.message))
                    yield replace(finding, span=finding.span or recipe.span(recipe.rules[take.rule]))
