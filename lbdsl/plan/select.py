"""Selection: which action each part of each layer gets, and by which rule. A pure function of its arguments."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from lbdsl.actions import Action, Aspect
from lbdsl.core.diagnostic import Diagnosed, Diagnostic
from lbdsl.core.digest import digest_of
from lbdsl.core.facts import ModelFacts
from lbdsl.core.measurement import Measurement, Request
from lbdsl.model.hybrid.lbdsl_layers import merged_spec
from lbdsl.plan.check import check_recipe
from lbdsl.plan.claims import slots_of
from lbdsl.plan.lint import selection_findings
from lbdsl.plan.match import Match, match_rules, ranks_rest
from lbdsl.plan.modules import Part, layer_modules
from lbdsl.plan.table import Table
from lbdsl.plan.until import resolve
from lbdsl.plan.words import ordinal
from lbdsl.recipe.schema import ElseSelector, RankSelector, Recipe, Rule


@dataclass(frozen=True)
class Choice:
    """One aspect of one layer. `rule` is the claiming rule's number; both are None where no rule claims it.

    Of a layer's weights different rules may have different modules: one choice each, with the modules' names below the
    layer.
    """

    aspect: Aspect
    action: Action | None
    rule: int | None
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerChoice:
    """All aspects of one layer, and why it got what it got."""

    index: int
    choices: tuple[Choice, ...]
    reason: str

    @property
    def changing(self) -> tuple[Action, ...]:
        """The actions that change the layer, each once."""
        found: list[Action] = []
        for choice in self.choices:
            if choice.action is not None and not choice.action.keeps and choice.action not in found:
                found.append(choice.action)
        return tuple(found)


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
        """sha256 over the changing actions of each layer: what a joint measurement is keyed by."""
        return digest_of([[action.model_dump(mode="json") for action in layer.changing] for layer in self.layers])

    @property
    def changed(self) -> tuple[int, ...]:
        return tuple(layer.index for layer in self.layers if layer.changing)

    @property
    def actions(self) -> tuple[tuple[Action, ...], ...]:
        """The changing actions of each layer."""
        return tuple(layer.changing for layer in self.layers)

    def specs(self, facts: ModelFacts) -> Mapping[int, Mapping[str, Any]]:
        """The entry in the saved configuration of each changed layer."""
        return MappingProxyType({i: spec_of(self.layers[i].changing, facts, i) for i in self.changed})


def spec_of(actions: tuple[Action, ...], facts: ModelFacts, layer: int) -> Mapping[str, Any]:
    """The configuration entry of one layer under `actions`."""
    spec = facts.spec(layer)
    for action in actions:
        for change in action.changes(facts, layer):
            spec = merged_spec(spec, dict(change.spec))
    return MappingProxyType(spec)


def select(recipe: Recipe, facts: ModelFacts, measurements: Mapping[Request, Measurement]) -> Diagnosed[Selection]:
    """Read the table from top to bottom; the first rule that matches a layer claims it.

    Errors: layers that the model does not have, a score that is missing or NaN, an `until` that cannot be met, a
    requirement on the model that does not hold. All of them are returned at once where one does not hide another.
    """
    problems = check_recipe(recipe, facts)
    if problems:
        return Diagnosed(None, problems)
    matched = match_rules(recipe, facts, measurements)
    if matched.value is None:
        return Diagnosed(None, matched.diagnostics)
    resolved = resolve(recipe, facts, matched.value, Table.empty(slots_of(recipe, facts), facts.layers))
    if resolved.value is None:
        return Diagnosed(None, matched.diagnostics + resolved.diagnostics)
    table = resolved.value
    reasons = tuple(
        _reasons(rule, match, got) for rule, match, got in zip(recipe.rules, matched.value, table.got, strict=True)
    )
    modules = {(module.layer, Part(module.part)) for module in layer_modules(facts.modules)}
    layers = tuple(_layer(recipe, table, reasons, index, modules) for index in range(facts.layers))
    sizes = dict(table.sizes)
    # `else` is about what is left, so nothing of it is ever shadowed.
    lost = tuple(
        () if isinstance(rule.selector, ElseSelector) else shadowed
        for rule, shadowed in zip(recipe.rules, table.lost, strict=True)
    )
    rules = tuple(RuleOutcome(rule.number, table.got[i], lost[i], sizes.get(i)) for i, rule in enumerate(recipe.rules))
    found = selection_findings(recipe, facts, matched.value, table) + tuple(_model_findings(recipe, facts, table))
    selection = Selection(layers, rules)
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


def _layer(
    recipe: Recipe, table: Table, reasons: tuple[dict[int, str], ...], index: int, modules: Container[tuple[int, Part]]
) -> LayerChoice:
    choices: list[Choice] = []
    weights: dict[tuple[int | None, str], list[str]] = {}
    acting: dict[tuple[int | None, str], Action | None] = {}
    owner = None
    for slot, row in table.claims.items():
        claim = row[index]
        number = recipe.rules[claim.rule].number if claim else None
        if isinstance(slot, Aspect):
            choices.append(Choice(slot, claim.action if claim else None, number))
        elif (index, slot) in modules:
            key = (number, claim.action.text() if claim else "")
            weights.setdefault(key, []).append(slot.name)
            acting[key] = claim.action if claim else None
        if claim is not None and (owner is None or (owner.action.keeps and not claim.action.keeps)):
            owner = claim
    choices += [
        Choice(Aspect.WEIGHTS, acting[key], key[0], tuple(weights[key]))
        for key in sorted(weights, key=lambda key: (key[0] is None, key[0] or 0))
    ]
    if owner is None:
        return LayerChoice(index, tuple(choices), "no rule claims it")
    reason = reasons[owner.rule].get(index, "left by the rules before")
    because = recipe.rules[owner.rule].because
    return LayerChoice(index, tuple(choices), f"{reason}; {because}" if because else reason)


def _model_findings(recipe: Recipe, facts: ModelFacts, table: Table) -> Iterator[Diagnostic]:
    """What the chosen actions say of this model, each thing once, at the rule that chose the action."""
    seen: set[tuple[str, str]] = set()
    for index in range(facts.layers):
        for row in table.claims.values():
            claim = row[index]
            for finding in claim.action.check(facts, index) if claim is not None else ():
                if claim is not None and (finding.code, finding.message) not in seen:
                    seen.add((finding.code, finding.message))
                    yield replace(finding, span=finding.span or recipe.span(recipe.rules[claim.rule]))
