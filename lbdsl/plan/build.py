"""Joining a selection, its costs and its measurements into a plan. Pure."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, warning
from lbdsl.core.measurement import Measurement, Request
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import folded, leaves
from lbdsl.parts import Slot
from lbdsl.plan.check import beyond_positions, context_findings, facts_only, requirement_problems
from lbdsl.plan.cost import ModelCost, base_cost, model_cost
from lbdsl.plan.evaluate import World, holds
from lbdsl.plan.requests import requests_of
from lbdsl.plan.schema import (
    AssertResult,
    Finding,
    LayerPlan,
    Loss,
    MeasuredOn,
    ModelRef,
    Plan,
    PlannedAction,
    RecipeRef,
    RuleReport,
    ScoreValue,
    counted_changes,
)
from lbdsl.plan.select import LayerChoice, Selection, Taken
from lbdsl.plan.shown import deciding
from lbdsl.plan.unbuilt import unbuilt_chosen
from lbdsl.plan.words import plural
from lbdsl.recipe.schema import Assertion, ModulesSelector, Phase, Recipe, Rule

CONTEXTS = (1024, 8192, 32768)
"""Where costs are counted, in tokens, when no one asks for others."""


def build(
    recipe: Recipe,
    facts: ModelFacts,
    selection: Selection,
    measurements: Mapping[Request, Measurement],
    joint: Loss | None,
    model_ref: ModelRef,
    measured_on: MeasuredOn | None,
    contexts: tuple[int, ...] = CONTEXTS,
    lbdsl_version: str = "",
    *,
    found: Iterable[Diagnostic] = (),
    statistics: Mapping[str, str] = MappingProxyType({}),
) -> Diagnosed[Plan]:
    """The plan, also when an assert fails: then an error says so (exit code 5; 1 for `requires`) and it is not
    applyable. `found` are diagnostics of earlier stages that the plan should keep; only new ones are returned.
    `statistics` as in `Plan`."""
    before, after = base_cost(facts), model_cost(facts, selection.specs)
    # Scores that happen to be in a store, but that this recipe does not ask for, must not change the plan's digest.
    asked, _ = requests_of(recipe, facts).unwrap()
    measurements = {request: measurements[request] for request in asked if request in measurements}
    joint, broken = _finite(joint)
    loss = _loss(facts, selection, measurements, joint)
    world = World(recipe, facts, measurements=measurements, cost=after, base=before, joint=loss)
    asserts, problems = _asserts(recipe, world)
    for requirement in recipe.requires:
        if not facts_only(requirement):
            problems += requirement_problems(recipe, facts, requirement, world)
    layers = tuple(_layer(recipe, facts, choice, measurements, before, after, contexts) for choice in selection.layers)
    problems += unbuilt_chosen(recipe, facts, selection)
    problems += context_findings(recipe, facts) + beyond_positions(recipe, facts, contexts)
    problems += _bare_findings(recipe, layers)
    problems = [*broken, *problems]
    kept = tuple(found) + tuple(problems)
    errored = any(d.is_error for d in kept)
    complete = bool(loss.scores) or not selection.changed
    plan = Plan(
        lbdsl_version=lbdsl_version,
        recipe=_recipe_ref(recipe),
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
                modules=_module_count(facts, layers, rule.number) if _about_weights(rule) else 0,
            )
            for rule, outcome in zip(recipe.rules, selection.rules, strict=True)
        ),
        before=before.totals(contexts),
        after=after.totals(contexts),
        contexts=contexts,
        loss=loss,
        asserts=asserts,
        measure=recipe.measure,
        heal=recipe.heal,
        eval=recipe.eval,
        findings=tuple(_finding(recipe, d) for d in kept),
        statistics=dict(statistics),
        changes=counted_changes(layers),
        complete=complete,
        errored=errored,
        applyable=complete and not errored and all(item.status in ("pass", "after healing") for item in asserts),
    )
    return Diagnosed(plan, tuple(problems))


def _layer(
    recipe: Recipe,
    facts: ModelFacts,
    choice: LayerChoice,
    measurements: Mapping[Request, Measurement],
    before: ModelCost,
    after: ModelCost,
    contexts: tuple[int, ...],
) -> LayerPlan:
    index = choice.index
    was, becomes = before.layers[index], after.layers[index]
    scores = {
        f"{request.metric}({request.action})" if request.action else request.metric: _score(measurement)
        for request, measurement in measurements.items()
        if request.layer == index and math.isfinite(measurement.value)
    }
    return LayerPlan(
        index=index,
        before=choice.base,
        after=choice.spec,
        weights=dict(choice.weights),
        actions=tuple(_planned(facts, choice, item) for item in choice.taken),
        scores=scores,
        params_before=was.params,
        params_after=becomes.params,
        weights_before=was.weights,
        weights_after=becomes.weights,
        kv_bytes_before={str(ctx): was.kv_bytes(ctx) for ctx in contexts},
        kv_bytes_after={str(ctx): becomes.kv_bytes(ctx) for ctx in contexts},
        reason=choice.reason,
    )


def _planned(facts: ModelFacts, choice: LayerChoice, item: Taken) -> PlannedAction:
    """With a part's name in place of all that it has, where all was taken."""
    every = list(leaves(choice.base, facts.linear_maps[choice.index]))
    return PlannedAction(action=item.action, rule=item.rule, paths=folded(item.paths, every), effective=item.effective)


def _score(measurement: Measurement) -> ScoreValue:
    stderr = measurement.stderr if math.isfinite(measurement.stderr) else None
    return ScoreValue(value=measurement.value, stderr=stderr, unit=measurement.unit)


def _finite(joint: Loss | None) -> tuple[Loss | None, list[Diagnostic]]:
    """The joint loss; none, with LB306, when it is no number."""
    if joint is None:
        return None, []
    values = {f"`{name}` of the whole changed model": score.value for name, score in joint.scores.items()}
    values |= {} if joint.base_nll is None else {"the base model's own loss": joint.base_nll}
    wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if wrong is None:
        return joint, []
    return None, [
        error(
            "LB306",
            f"{wrong} is {values[wrong]}",
            help=("the plan breaks the model: change fewer layers", "or try `--dtype float32`"),
        )
    ]


def _loss(facts: ModelFacts, selection: Selection, measurements: Mapping[Request, Measurement], joint: Loss | None) -> Loss:
    """The joint loss with the sum of the single layers' rises under the very actions chosen, where all are known."""
    rises: list[float] = []
    for layer in selection.layers:
        if layer.changed:
            text = " + ".join(action.text() for action in layer.changing)
            score = measurements.get(Request("nll", text, layer.index))
            alone = layer.changing[0].under(facts, layer.index) if layer.changing else None
            if score is None or not math.isfinite(score.value) or alone != layer.change:
                return joint or Loss()
            rises.append(score.value)
    return (joint or Loss()).model_copy(update={"sum": math.fsum(rises)})


def _asserts(recipe: Recipe, world: World) -> tuple[tuple[AssertResult, ...], list[Diagnostic]]:
    results: list[AssertResult] = []
    problems: list[Diagnostic] = []
    for assertion in recipe.asserts:
        result, found = _assert(recipe, assertion, world)
        results.append(result)
        problems += found
    return tuple(results), problems


def _assert(recipe: Recipe, assertion: Assertion, world: World) -> tuple[AssertResult, tuple[Diagnostic, ...]]:
    text = assertion.text
    if assertion.phase is Phase.POST:
        return AssertResult(text=text, phase="post", status="after healing"), ()
    static = assertion.phase is Phase.STATIC
    phase: Literal["static", "measured"] = "static" if static else "measured"
    truth, found = holds(assertion.expr, world)
    if truth is None:
        unmeasured = all(d.code == "LB323" for d in found)
        return AssertResult(text=text, phase=phase, status="not measured" if unmeasured else "fail"), found
    shown = deciding(assertion.expr, world)
    result = AssertResult(
        text=text,
        phase=phase,
        status="pass" if truth else "fail",
        value=float(shown.value.value) if shown is not None else None,
        unit=shown.value.unit if shown is not None else None,
    )
    if truth:
        return result, ()
    code = "LB321" if static else "LB322"
    said = f": `{shown.name}` is {shown.text}" if shown is not None else ""
    help = (
        "change more layers, or loosen the assert"
        if static
        else ("change fewer layers; what healing should mend is gated with `ppl_increase` or `kl_healed`",)
    )
    return result, (error(code, f"`assert {text}` fails{said}", recipe.span(assertion), help=help),)


def _bare_findings(recipe: Recipe, layers: tuple[LayerPlan, ...]) -> list[Diagnostic]:
    changed = sum(layer.changed for layer in layers)
    if not changed or recipe.heal is not None or recipe.asserts:
        return []
    return [
        warning(
            "LB325",
            f"this plan changes {plural(changed, 'layer')}, heals nothing and gates nothing",
            help=(
                "`heal { tokens = 200k }` distils the base model into the changed one",
                "`assert ppl_increase < 5%` refuses to save a result that is worse",
            ),
        )
    ]


def _about_weights(rule: Rule) -> bool:
    """Whether modules are worth counting: it names them, or an action of it changes weights."""
    roots = [root for action in rule.actions if not action.keeps for root in action.claims()]
    return isinstance(rule.selector, ModulesSelector) or Slot.WEIGHTS in roots


def _module_count(facts: ModelFacts, layers: tuple[LayerPlan, ...], rule: int) -> int:
    """Modules of the model that is left whose weights the rule took by name; all of a layer count where it took all."""
    count = 0
    for layer in layers:
        maps = layer.after.linear_maps(facts)
        for planned in layer.actions:
            if planned.rule == rule:
                count += len(maps) if Slot.WEIGHTS in planned.paths else len(set(maps) & set(planned.modules))
    return count


def _finding(recipe: Recipe, diagnostic: Diagnostic) -> Finding:
    span = diagnostic.span
    inside = span is not None and span.source.base > 0
    folder = os.path.dirname(recipe.path) or "."
    file = os.path.relpath(span.source.name, folder).replace(os.sep, "/") if span is not None and inside else None
    line = diagnostic.span.start_line_column[0] if diagnostic.span is not None else None
    return Finding(
        code=diagnostic.code,
        severity=diagnostic.severity.value,
        message=diagnostic.message,
        help=diagnostic.help,
        line=line,
        file=file,
    )


def _recipe_ref(recipe: Recipe) -> RecipeRef:
    return RecipeRef(
        name=recipe.name,
        path=recipe.path,
        text=recipe.text,
        sha256=recipe.sha256,
        params=dict(recipe.params),
        set_params=recipe.set_params,
        included=recipe.included,
    )
