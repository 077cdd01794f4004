"""Selection: what each layer becomes, and by which rules. A pure function of its arguments."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from lbdsl.actions import Action
from lbdsl.actions.base import made_weights
from lbdsl.actions.patches import SubBlock, output_module, patch_texts, places, with_patches
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError, error, note
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.span import Span
from lbdsl.core.units import layers_text, ordinal, ranges_text
from lbdsl.layer.paths import touch, with_paths_of
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import AnyExpr, LayerChange, Stat, stats_by_layer
from lbdsl.parts import Slot
from lbdsl.recipe.schema import Choosing, action_from
from lbdsl.solve.case import Case
from lbdsl.solve.choose import Forms, Problem, alone_of
from lbdsl.solve.evaluate import scores_in
from lbdsl.solve.lint import table_findings
from lbdsl.solve.match import Match, match_rules, score_text
from lbdsl.solve.optimum import solutions, unmet
from lbdsl.solve.table import Choices, RuleOutcome, Table, TakenPaths
from lbdsl.solve.until import resolve


class PlanValue(BaseModel):
    """Base of the values of a plan. Not strict, because saved plans are validated with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedAction(PlanValue):
    """The paths of a layer that a rule, by its number, took with an action. `effective`: it changes the layer; the storage
    of a dropped part does not count. A plan names a whole part if all of it was taken."""

    action: Annotated[SerializeAsAny[Action], BeforeValidator(action_from)]
    rule: int
    paths: tuple[str, ...]
    effective: bool

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules, by name below the layer, whose weights it took."""
        prefix = f"{Slot.WEIGHTS}."
        return tuple(path.removeprefix(prefix) for path in self.paths if path.startswith(prefix))


class LayerChoice(PlanValue):
    """A layer of the source model before and after the plan, what the rules took of it, and why. `weights` has how each
    new parameter (not the base's) is computed, by name below the layer."""

    index: int
    before: LayerSpec
    after: LayerSpec
    actions: tuple[PlannedAction, ...]
    weights: dict[str, AnyExpr] = {}
    reason: str = ""

    @property
    def change(self) -> LayerChange:
        return LayerChange(self.after, tuple(sorted(self.weights.items())))

    @property
    def changed(self) -> bool:
        return self.after != self.before or bool(self.weights)

    @property
    def acting(self) -> tuple[PlannedAction, ...]:
        """The planned actions that change the layer."""
        return tuple(planned for planned in self.actions if planned.effective)

    @property
    def changing(self) -> tuple[Action, ...]:
        """The actions that change the layer, each once."""
        return tuple(dict.fromkeys(planned.action for planned in self.acting))


class Chosen:
    """Values derived from the layers of a selection or a plan."""

    layers: tuple[LayerChoice, ...]

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """The resulting specification of every layer."""
        return tuple(layer.after for layer in self.layers)

    @property
    def used_statistics(self) -> dict[int, tuple[Stat, ...]]:
        """The statistics, by layer, that its new weights are computed from."""
        return stats_by_layer({layer.index: layer.weights.values() for layer in self.layers})


@dataclass(frozen=True)
class Selection(Chosen):
    """What is done to every layer. Selections that change the model in the same way have the same digest."""

    layers: tuple[LayerChoice, ...]
    rules: tuple[RuleOutcome, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 over the change of each layer: the key of a joint measurement."""
        return digest_of([layer.change.to_json() for layer in self.layers])

    @cached_property
    def changes(self) -> Mapping[int, LayerChange]:
        """The changes of the changed layers, by index."""
        return MappingProxyType({layer.index: layer.change for layer in self.layers if layer.changed})

    @property
    def changed(self) -> tuple[int, ...]:
        return tuple(self.changes)


def select(
    case: Case,
    measurements: Mapping[Request, Measurement],
    *,
    unhelped: Collection[SubBlock] = (),
    chosen: Choices | None = None,
    sizes: Mapping[int, int] = MappingProxyType({}),
    forms: Forms = MappingProxyType({}),
) -> Diagnosed[Selection]:
    """Apply the rules from top to bottom; the first rule that matches a layer claims it. `unhelped` are dropped sub-blocks
    that no patch helps. `chosen` are the alternatives that a `choose` gives its layers (None: those with the least sum of
    scores), `forms` the formats of the engines that its budgets name. `sizes` are how many layers a rule with `while`
    takes, by its number: none, unless given.

    Errors: layers that the model does not have, a score that is missing or NaN, an `until` or budgets that cannot be met, a
    requirement on the model that does not hold. All errors are returned at once, unless one hides another.
    """
    if case.problems:
        return Diagnosed(None, case.problems)
    matches, problems = match_rules(case, measurements)
    if matches is None:
        return Diagnosed(None, problems)
    if chosen is None and case.choose is not None:
        problem, problems = Problem.of(case, matches, measurements, forms)
        if problem is None:
            return Diagnosed(None, problems)
        chosen = next(solutions(problem), None)
        if chosen is None:
            return Diagnosed(None, (unmet(problem),))
    table, problems = resolve(case, matches, chosen or {}, sizes)
    if table is None:
        return Diagnosed(None, problems)
    reasons = [_reasons(case, index, match, table) for index, match in enumerate(matches)]
    if case.choose is not None and case.choosing is not None and chosen is not None:
        reasons[case.choose.rule.number - 1] = _why_chosen(case.choosing, measurements, chosen)
    layers, unpatched = _patched(
        case, [_layer(case, table, reasons, index) for index in range(case.facts.layers)], unhelped
    )
    selection = Selection(layers, table.rules)
    acting = {item.rule for layer in selection.layers for item in layer.acting}
    found = (
        *table_findings(case, table, selection.specs, acting, selection.changed),
        *_action_findings(case, table),
        *_storage_findings(case, selection),
        *unpatched,
    )
    return Diagnosed(None if any(d.is_error for d in found) else selection, found)


def _reasons(case: Case, index: int, match: Match, table: Table) -> Mapping[int, str]:
    """Why each layer of a rule matches, by layer."""
    known = case.rules[index]
    if known.ranking is None or not known.ranks_rest:
        return match.reasons
    ranked = [layer for layer in match.layers if layer in table.rules[index].claims]
    return {
        layer: f"{match.reasons[layer]}: {ordinal(place)} {known.ranking.direction} of the rest"
        for place, layer in enumerate(ranked, start=1)
    }


def _why_chosen(choosing: Choosing, measurements: Mapping[Request, Measurement], chosen: Choices) -> Mapping[int, str]:
    found = {}
    for layer, number in chosen.items():
        by = choosing.scores[number]
        found[layer] = f"chosen among {len(choosing.alternatives)}"
        if by is not None:
            alone = alone_of(by, layer, measurements)
            shown = ", ".join(f"{score.text} {score_text(alone[score.metric])}" for score in scores_in(by))
            found[layer] = f"{shown}: {found[layer]}"
    return found


def choice_of(case: Case, measurements: Mapping[Request, Measurement], forms: Forms) -> Diagnosed[Problem]:
    """What the `choose` of a recipe can give its layers. Errors are those of `select`."""
    matches, problems = match_rules(case, measurements)
    return Diagnosed(None, problems) if matches is None else Problem.of(case, matches, measurements, forms)


def _layer(case: Case, table: Table, reasons: list[Mapping[int, str]], index: int) -> LayerChoice:
    base, takes = case.facts.layer_specs[index], table.takes[index]
    try:
        spec = table.spec(case.facts, index)
    except LbdslError as problem:
        rules = [case.recipe.rules[rule] for rule in dict.fromkeys(take.rule for take in takes if not take.action.keeps)]
        numbers = f"rule{'s' if len(rules) > 1 else ''} {ranges_text([rule.number for rule in rules])}"
        raise problem.placed(f"{numbers}, layer {index}", rules[-1].span) from None
    actions = [_planned(case, base, spec, table.paths[index].named(take.paths), take) for take in takes]
    acting = [take for take, planned in zip(takes, actions, strict=True) if planned.effective]
    weights = made_weights(dict.fromkeys(take.action for take in acting), base, spec, case.facts)
    whys = []
    for rule in dict.fromkeys(take.rule for take in acting or takes[:1]):
        because = case.recipe.rules[rule].because
        whys.append(reasons[rule].get(index, "left by the rules before") + (f"; {because}" if because else ""))
    reason = "; ".join(dict.fromkeys(whys)) or "no rule claims it"
    return LayerChoice(index=index, before=base, after=spec, actions=tuple(actions), weights=dict(weights), reason=reason)


def _planned(case: Case, base: LayerSpec, spec: LayerSpec, paths: tuple[str, ...], take: TakenPaths) -> PlannedAction:
    made = take.action.weights(base, spec, case.facts)
    changes = with_paths_of(base, spec, paths) != base or any(tensor.name in made for tensor in spec.tensors(case.facts))
    number = case.recipe.rules[take.rule].number
    return PlannedAction(action=take.action, rule=number, paths=paths, effective=changes and not take.action.keeps)


def _patched(
    case: Case, layers: Sequence[LayerChoice], unhelped: Collection[SubBlock]
) -> tuple[tuple[LayerChoice, ...], list[Diagnostic]]:
    """The layers with the patches that their actions want, and LB351 for each reason why some drops have none."""
    wanted: dict[SubBlock, int] = {}
    kept: dict[SubBlock, int] = {}
    for place in places(case.facts):
        output = f"{Slot.WEIGHTS}.{output_module(case.facts, case.facts.layer_specs[place.layer], place.slot)}"
        for item in layers[place.layer].actions:
            if item.effective and item.action.patched and place.slot in item.paths and place not in unhelped:
                wanted[place] = item.rule
            if item.action.keeps and any(touch(path, place.slot) or path == output for path in item.paths):
                kept.setdefault(place, item.rule)
    if not wanted:
        return tuple(layers), []
    changes, without = with_patches(case.facts, {c.index: c.change for c in layers if c.changed}, wanted, kept)
    found = []
    for choice in layers:
        weights = dict(changes[choice.index].weights) if choice.index in changes else {}
        why = "; ".join([*([choice.reason] if choice.acting else []), *patch_texts(weights)]) or choice.reason
        found.append(choice.model_copy(update={"weights": weights, "reason": why}))
    whys: dict[str, list[SubBlock]] = {}
    for place, why in without.items():
        whys.setdefault(why, []).append(place)
    rules = case.recipe.rules
    return tuple(found), [unpatched(of, why, rules[wanted[of[0]] - 1].span) for why, of in whys.items()]


def unpatched(dropped: Iterable[SubBlock], why: str, span: Span | None = None) -> Diagnostic:
    """LB351 for dropped sub-blocks without a patch."""
    layers = {place.layer for place in dropped}
    said = f"{layers_text(sorted(layers))} {'is' if len(layers) == 1 else 'are'} dropped without a patch"
    return note("LB351", f"{said}: {why}", span)


def _action_findings(case: Case, table: Table) -> Iterable[Diagnostic]:
    """The findings of the chosen actions on this model, each once, at the rule that chose the action."""
    found: dict[tuple[str, str], Diagnostic] = {}
    for index, takes in enumerate(table.takes):
        for take in takes:
            for d in take.action.check(case.facts, index):
                found.setdefault((d.code, d.message), replace(d, span=d.span or case.recipe.rules[take.rule].span))
    return found.values()


def _storage_findings(case: Case, selection: Selection) -> Iterator[Diagnostic]:
    """LB217 for matrices that their storage cannot hold, each reason once, at the rule that chose the storage."""
    found: dict[tuple[str, str], tuple[int, dict[str, None], list[int]]] = {}
    for layer in selection.layers:
        for tensor, storage in layer.after.matrices(case.facts):
            reason = storage.misfit(tensor)
            if reason is not None:
                path = f"{Slot.WEIGHTS}.{tensor.module}"
                rule = next(item.rule for item in layer.actions if any(touch(path, taken) for taken in item.paths))
                _, modules, layers = found.setdefault(reason, (rule, {}, []))
                modules[f"`{tensor.module}`"] = None
                layers.append(layer.index)
    for (message, help), (number, modules, layers) in found.items():
        text = f"{message}: {', '.join(modules)} of layers {ranges_text(set(layers))}"
        yield error("LB217", text, case.recipe.rules[number - 1].span, help=help)
