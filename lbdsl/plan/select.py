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
from lbdsl.plan.case import Case
from lbdsl.plan.check import check_recipe
from lbdsl.plan.lint import table_findings
from lbdsl.plan.match import Match, match_rules
from lbdsl.plan.table import RuleOutcome, Table, Take
from lbdsl.plan.until import resolve
from lbdsl.plan.words import ordinal
from lbdsl.recipe.schema import Recipe


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
class Selection:
    """What is done to every layer. Two selections that change the model alike have one digest, whatever their rules."""

    layers: tuple[LayerChoice, ...]
    rules: tuple[RuleOutcome, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 over what each layer becomes: what a joint measurement is keyed by."""
        return digest_of([layer.change.to_json() for layer in self.layers])

    @cached_property
    def changes(self) -> Mapping[int, LayerChange]:
        """What the changed layers become."""
        return MappingProxyType({layer.index: layer.change for layer in self.layers if layer.changed})

    @property
    def changed(self) -> tuple[int, ...]:
        return tuple(self.changes)

    @property
    def used_statistics(self) -> dict[int, tuple[Stat, ...]]:
        """By layer, those that its new weights are made from."""
        return stats_by_layer({layer.index: dict(layer.weights).values() for layer in self.layers})

    @property
    def carried_out(self) -> bool:
        """False when something has an action that this version only plans."""
        return all(action.carried_out for layer in self.layers for action in layer.changing)

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """What every layer becomes."""
        return tuple(layer.spec for layer in self.layers)


def select(recipe: Recipe, facts: ModelFacts, measurements: Mapping[Request, Measurement]) -> Diagnosed[Selection]:
    """Read the table from top to bottom; the first rule that matches a layer claims it.

    Errors: layers that the model does not have, a score that is missing or NaN, an `until` that cannot be met, a
    requirement on the model that does not hold. All of them are returned at once where one does not hide another.
    """
    case = Case(recipe, facts)
    problems = check_recipe(case)
    if problems:
        return Diagnosed(None, problems)
    matches, problems = match_rules(case, measurements)
    if matches is None:
        return Diagnosed(None, problems)
    table, problems = resolve(case, matches)
    if table is None:
        return Diagnosed(None, problems)
    reasons = [_reasons(case, index, match, table) for index, match in enumerate(matches)]
    selection = Selection(tuple(_layer(case, table, reasons, index) for index in range(facts.layers)), table.rules)
    acting = {item.rule for layer in selection.layers for item in layer.taken if item.effective}
    found = (*table_findings(case, table, selection.specs, acting), *_action_findings(case, table))
    return Diagnosed(None if any(d.is_error for d in found) else selection, found)


def _reasons(case: Case, index: int, match: Match, table: Table) -> Mapping[int, str]:
    """Why each layer of a rule is in it."""
    known = case.rules[index]
    if known.ranking is None or not known.ranks_rest:
        return match.reasons
    ranked = [layer for layer in match.layers if layer in table.rules[index].claims]
    return {
        layer: f"{match.reasons[layer]}: {ordinal(place)} {known.ranking.direction} of the rest"
        for place, layer in enumerate(ranked, start=1)
    }


def _layer(case: Case, table: Table, reasons: list[Mapping[int, str]], index: int) -> LayerChoice:
    base, spec, takes = case.facts.layer_specs[index], table.spec(case.facts, index), table.takes[index]
    taken = tuple(_taken(case, base, spec, table.paths[index].named(take.paths), take) for take in takes)
    acting = [take for take, item in zip(takes, taken, strict=True) if item.effective]
    weights = made_weights(dict.fromkeys(take.action for take in acting), base, spec, case.facts)
    owner = next(iter((*acting, *takes)), None)
    if owner is None:
        reason = "no rule claims it"
    else:
        because = case.recipe.rules[owner.rule].because
        reason = reasons[owner.rule].get(index, "left by the rules before") + (f"; {because}" if because else "")
    return LayerChoice(index, base, spec, weights, taken, reason)


def _taken(case: Case, base: LayerSpec, spec: LayerSpec, paths: tuple[str, ...], take: Take) -> Taken:
    made = take.action.weights(base, spec, case.facts)
    effective = not take.action.keeps and (
        with_paths_of(base, spec, paths) != base or any(tensor.name in made for tensor in spec.tensors(case.facts))
    )
    return Taken(take.action, case.recipe.rules[take.rule].number, paths, effective)


def _action_findings(case: Case, table: Table) -> Iterator[Diagnostic]:
    """What the chosen actions say of this model, each thing once, at the rule that chose the action."""
    seen: set[tuple[str, str]] = set()
    for index, takes in enumerate(table.takes):
        for take in takes:
            for finding in take.action.check(case.facts, index):
                if (finding.code, finding.message) not in seen:
                    seen.add((finding.code, finding.message))
                    yield replace(finding, span=finding.span or case.span(case.recipe.rules[take.rule]))
