"""Build a plan from a selection, its costs and its measurements. Pure functions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lbdsl.actions.base import together
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, warning
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import plural
from lbdsl.cost.cost import LayerCost, ModelCost, model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.tree import ModulesSelector
from lbdsl.layer.difference import given_windows
from lbdsl.layer.paths import folded, leaves
from lbdsl.parts import Slot
from lbdsl.plan.findings import beyond_positions, context_findings
from lbdsl.plan.gates import assert_result
from lbdsl.plan.made_from import MeasuredOn, ModelRef, RecipeRef
from lbdsl.plan.recall import LOST, RecallLoss
from lbdsl.plan.schema import Choice, Finding, LayerPlan, Loss, Plan, RuleReport, ScoreValue, Totals, counted_changes
from lbdsl.recipe.beyond import missing_gate, nothing_beyond
from lbdsl.recipe.schema import Recipe, Rule
from lbdsl.solve.case import Case, requirement_problems
from lbdsl.solve.evaluate import World, facts_only
from lbdsl.solve.select import LayerChoice, Selection

CONTEXTS = (1024, 8192, 32768)
"""The context lengths, in tokens, that costs are computed at where the model has as many positions; else at all it has."""

Scores = Mapping[Request, Measurement]


def build(
    case: Case,
    selection: Selection,
    measurements: Scores,
    joint: Loss | None,
    model_ref: ModelRef,
    measured_on: MeasuredOn | None,
    contexts: tuple[int, ...] = (),
    lbdsl_version: str = "",
    *,
    found: Iterable[Diagnostic] = (),
    statistics: Mapping[str, str] = MappingProxyType({}),
    choice: Choice | None = None,
    recall: RecallLoss | None = None,
) -> Diagnosed[Plan]:
    """The plan, even when an assert fails: then there is an error (exit code 5; 1 for `requires`) and it is not
    applyable. `contexts` are those that costs are computed at besides `CONTEXTS` and those that the recipe names. `found`
    are diagnostics of earlier stages that the plan should keep; only new ones are returned. `statistics` and `choice` as in
    `Plan`, and so is `recall`."""
    recipe, facts = case.recipe, case.facts
    usual = [ctx for ctx in CONTEXTS if ctx <= facts.positions] or [facts.positions]
    named = (cost.ctx for cost in recipe.costs_asked if cost.ctx is not None)
    contexts = tuple(sorted({*usual, *named, *contexts}))
    before, after = facts.cost, model_cost(facts, selection.specs)
    # Stored scores that this recipe does not use must not change the plan's digest.
    measurements = {request: measurements[request] for request in case.requests if request in measurements}
    broken = _broken(joint)
    loss = _loss(facts, selection, measurements, joint if joint is not None and broken is None else Loss())
    values = loss.values | ({"recall": recall.value} if recall is not None else {})
    world = World(facts, measurements=measurements, cost=after, joint=values, profiles=recipe.profiles)
    judged = [assert_result(assertion, world) for assertion in recipe.asserts]
    pairs = zip(selection.layers, before.layers, after.layers, strict=True)
    layers = tuple(_layer(facts, choice, was, becomes, measurements, contexts) for choice, was, becomes in pairs)
    problems = (
        *([broken] if broken is not None else []),
        *(problem for _, problems in judged for problem in problems),
        *(d for item in recipe.requires if not facts_only(item.expr) for d in requirement_problems(item, world)),
        *context_findings(case),
        *beyond_positions(case, contexts),
        *nothing_beyond(recipe, given_windows(facts.layer_specs, selection.specs), facts.positions),
        *_plain_findings(case, selection),
        *_forgotten(recipe, recall),
    )
    kept = (*found, *problems)
    errored = any(d.is_error for d in kept)
    complete = bool(loss.scores) or not selection.changed
    asserts = tuple(result for result, _ in judged)
    plan = Plan(
        lbdsl_version=lbdsl_version,
        recipe=RecipeRef.model_validate(recipe, from_attributes=True),
        model=model_ref,
        measured_on=measured_on,
        layers=layers,
        rules=tuple(
            RuleReport(
                number=rule.number,
                text=rule.text,
                because=rule.because,
                claims=outcome.claims,
                shadowed=outcome.shadowed,
                modules=_module_count(facts, layers, rule),
            )
            for rule, outcome in zip(recipe.rules, selection.rules, strict=True)
        ),
        before=totals(before, contexts),
        after=totals(after, contexts),
        contexts=contexts,
        loss=loss,
        recall=recall,
        asserts=asserts,
        measure=recipe.measure,
        heal=recipe.heal,
        eval=recipe.eval,
        findings=tuple(_finding(recipe, d) for d in kept),
        statistics=dict(statistics),
        profiles=dict(recipe.profiles),
        choice=choice,
        changes=counted_changes(layers),
        complete=complete,
        errored=errored,
        applyable=complete and not errored and all(item.status in ("pass", "after healing") for item in asserts),
    )
    return Diagnosed(plan, problems)


def _layer(
    facts: ModelFacts, choice: LayerChoice, was: LayerCost, becomes: LayerCost, scores: Scores, contexts: tuple[int, ...]
) -> LayerPlan:
    # If all of a part was taken, name the part instead of its paths.
    every = tuple(leaves(choice.before, facts.linear_maps[choice.index]))
    actions = tuple(item.model_copy(update={"paths": folded(item.paths, every)}) for item in choice.actions)
    values = {
        f"{request.metric}({request.action})" if request.action else request.metric: ScoreValue.of(score)
        for request, score in scores.items()
        if request.layer == choice.index and math.isfinite(score.value)
    }
    return LayerPlan(
        **{**dict(choice), "actions": actions},
        scores=values,
        **layer_costs(was, becomes, contexts),
    )


def layer_costs(was: LayerCost, becomes: LayerCost, contexts: tuple[int, ...]) -> dict[str, Any]:
    """The fields of a `LayerPlan` that say what the layer costs."""
    return {
        f"{name}_{when}": value
        for when, cost in (("before", was), ("after", becomes))
        for name, value in (
            ("params", cost.params),
            ("weights", cost.weights),
            ("kv_bytes", {str(ctx): cost.kv_bytes(ctx) for ctx in contexts}),
        )
    }


def totals(cost: ModelCost, contexts: tuple[int, ...]) -> Totals:
    """The costs of a whole model at these contexts, as a plan says them."""
    return Totals(
        params=cost.params,
        weights=cost.weights,
        kv_bytes={str(ctx): cost.kv_bytes(ctx) for ctx in contexts},
        flops_per_token={str(ctx): cost.flops(ctx) for ctx in contexts},
    )


def _broken(joint: Loss | None) -> Diagnostic | None:
    """LB306 for a joint loss that is not a finite number."""
    if joint is None:
        return None
    values = {f"`{name}` of the whole changed model": value for name, value in joint.values.items()}
    values |= {} if joint.base_nll is None else {"the base model's own loss": joint.base_nll}
    wrong = next((f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)), None)
    help = ("the plan breaks the model: change fewer layers", "or try `--dtype float32`")
    return None if wrong is None else error("LB306", wrong, help=help)


def _loss(facts: ModelFacts, selection: Selection, measurements: Scores, joint: Loss) -> Loss:
    """The joint loss, with the sum of the single-layer rises of the same actions if all of them are known."""
    rises: list[float] = []
    for index, change in selection.changes.items():
        changing = selection.layers[index].changing
        whole = together(changing) if changing else None
        score = measurements.get(Request("nll", whole.text(), index)) if whole is not None else None
        if whole is None or score is None or not math.isfinite(score.value) or whole.under(facts, index) != change:
            return joint
        rises.append(score.value)
    return joint.model_copy(update={"sum": math.fsum(rises)})


def _module_count(facts: ModelFacts, layers: tuple[LayerPlan, ...], rule: Rule) -> int:
    """The number of modules in the changed model whose weights the rule took by name; all of a layer if it took all. 0
    unless the rule names modules or has an action that changes weights."""
    roots = [root for action in rule.actions if not action.keeps for root in action.claims()]
    if not isinstance(rule.selector, ModulesSelector) and Slot.WEIGHTS not in roots:
        return 0
    count = 0
    for layer in layers:
        maps = layer.after.linear_maps(facts)
        for planned in layer.actions:
            if planned.rule == rule.number:
                count += len(maps) if Slot.WEIGHTS in planned.paths else len(set(maps) & set(planned.modules))
    return count


def _plain_findings(case: Case, selection: Selection) -> Iterator[Diagnostic]:
    """LB325 for changes without heal and gate, LB484 for training of learned sinks and maps that no layer has."""
    recipe = case.recipe
    stages = recipe.heal.runs if recipe.heal is not None else ()
    sinks = next((stage for stage in stages if stage.method.node == "sinks"), None)
    parts = [part for spec in selection.specs for _, part in spec.sub_blocks]
    has = (row.name in part.trained for part in parts for row in (*case.facts.rows(part.kind), *part.own_rows))
    if sinks is not None and not any(has):
        said = "`method = sinks` trains learned sinks, and the maps of `linear`, and no layer has any"
        yield error("LB484", said, sinks.span, help="write `swa(window=..., sinks=learned)`, or another method")
    if selection.changed and recipe.heal is None and not recipe.asserts:
        message = f"this plan changes {plural(len(selection.changed), 'layer')}, heals nothing and gates nothing"
        gate = missing_gate(recipe, given_windows(case.facts.layer_specs, selection.specs), case.facts.positions)
        help = (
            "`heal { tokens = 200k }` distils the base model into the changed one",
            "`assert ppl_increase < 5%` refuses to save a result that is worse",
            *([f"`{gate}` refuses one that loses what stands beyond its windows"] if gate is not None else []),
        )
        yield warning("LB325", message, help=help)


def _forgotten(recipe: Recipe, recall: RecallLoss | None) -> Iterator[Diagnostic]:
    """LB362 for a plan that loses much of what the base finds."""
    if recall is not None and recall.found < (1 - LOST) * recall.base:
        message = (
            f"the changed model finds {recall.found:.0%} of the answers that stand far back, the base {recall.base:.0%}"
        )
        changes = dict.fromkeys(
            action.text()
            for rule in recipe.rules
            for action in rule.actions
            if not action.keeps and any(path.startswith("mixer") for path in action.claims())
        )
        choose = "choose its layers by what they recall: "
        choose += " or ".join(f"`lowest N by recall({action}) {action}`" for action in changes)
        if "recall" in recipe.metrics_asked or not changes:
            choose = "keep more layers, or ask more questions about more texts to choose them"
        wider = "wider windows lose less; " if any("window" in action for action in changes) else ""
        help = (choose, f"{wider}`builtin:recall` in `heal` brings some back")
        yield warning("LB362", message.replace("%", " %"), help=help)


def _finding(recipe: Recipe, found: Diagnostic) -> Finding:
    line = file = None
    if found.span is not None:
        line = found.span.start_line_column[0]
        if found.span.source.base > 0:  # an included file
            file = os.path.relpath(found.span.source.name, os.path.dirname(recipe.path) or ".").replace(os.sep, "/")
    return Finding(code=found.code, severity=found.severity, message=found.message, help=found.help, line=line, file=file)
