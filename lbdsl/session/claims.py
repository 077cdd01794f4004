"""What a saved plan or an artifact's record claims and can be computed again: from the recipe in it, the model's headers
and the layers that it plans. Whoever writes a file can compute its digest, so a digest alone says nothing.

What was measured cannot be computed: `verify` measures it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lbdsl.artifact.contents import RECORD_FILE
from lbdsl.artifact.record import Record, read_record
from lbdsl.core.diagnostic import LbdslError, error, first_line
from lbdsl.cost.cost import model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.plan.build import layer_costs, totals
from lbdsl.plan.file import load_plan
from lbdsl.plan.gates import assert_result
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.schema import AssertResult, Plan, counted_changes
from lbdsl.recipe.schema import Phase, Recipe
from lbdsl.session.saved_recipe import planned_recipe, recipe_in
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import World, scores_in

AGAIN = "make it again with `lbdsl plan`"


def read_plan(path: Path) -> Plan:
    """The plan saved at `path`. Raises LbdslError as `load_plan` does, and LB366 for what does not follow from it."""
    plan = load_plan(path).unwrap()
    check_plan(plan, str(path))
    return plan


def read_artifact(folder: Path) -> Record:
    """The record of the artifact in `folder`. Raises LbdslError as `read_record` does, and LB366."""
    record = read_record(folder).unwrap()
    check_record(record, folder)
    return record


def check_plan(plan: Plan, named: str, facts: ModelFacts | None = None) -> None:
    """Raise LB366 for each thing that the plan says and that is not so; `facts` are of the model, if it is at hand."""
    _raise(named, _computed(lambda: _of_plan(plan, facts)))


def check_record(record: Record, folder: Path, facts: ModelFacts | None = None) -> None:
    """As `check_plan`, for the record of the artifact in `folder` and its plan."""
    _raise(str(folder / RECORD_FILE), _computed(lambda: (*_of_plan(record.plan, facts), *_of_record(record))))


def _raise(named: str, claims: tuple[str, ...]) -> None:
    if claims:
        raise LbdslError(
            error("LB366", f"{named} is not what its recipe and model give: {one}", help=AGAIN) for one in claims
        )


def _computed(claims: Any) -> tuple[str, ...]:
    try:
        return tuple(claims())
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as problem:
        return (f"its values cannot be computed with ({first_line(problem)})",)


def _of_plan(plan: Plan, known: ModelFacts | None) -> Iterator[str]:
    facts, model = plan.model.facts, plan.model
    if known is not None and facts != known:
        yield "the model has other sizes"
        return
    sizes = facts.hidden, facts.vocab, facts.positions, facts.rotary or 1
    if min(sizes) <= 0 or (model.layers, model.family, model.dtype) != (facts.layers, facts.family, facts.dtype):
        yield "the sizes of the model contradict each other"
        return
    if [layer.index for layer in plan.layers] != list(range(facts.layers)):
        yield f"it plans {len(plan.layers)} layers, and the model has {facts.layers}"
        return
    recipe = planned_recipe(plan)
    if recipe.sha256 != plan.recipe.sha256:
        yield "the recipe in it has another sha256"
    if dict(recipe.params) != plan.recipe.params or recipe.name != plan.recipe.name:
        yield "the recipe in it has another name or other parameters"
    yield from _settings(plan, recipe_in(plan), facts)
    yield from _costs(plan, facts)
    yield from _asserts(plan, recipe, facts)


def _no_negatives(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_no_negatives, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_no_negatives, value))
    return not isinstance(value, int | float) or value >= 0


def _settings(plan: Plan, recipe: Recipe, facts: ModelFacts) -> Iterator[str]:
    """The blocks, with the lengths that they get on the model."""
    settled = with_lengths(Case(replace(recipe, profiles=plan.profiles), facts)).unwrap().recipe
    for name in ("measure", "heal", "eval"):
        said, follows = getattr(plan, name), getattr(settled, name)
        if (said and said.model_dump(mode="json")) != (follows and follows.model_dump(mode="json")):
            yield f"the settings of `{name}`"


def _costs(plan: Plan, facts: ModelFacts) -> Iterator[str]:
    if tuple(layer.before for layer in plan.layers) != facts.layer_specs:
        yield "the layers before it"
        return
    before, after = facts.cost, model_cost(facts, plan.specs)
    if plan.before != totals(before, plan.contexts) or plan.after != totals(after, plan.contexts):
        yield "the costs before or after it"
    for layer, was, becomes in zip(plan.layers, before.layers, after.layers, strict=True):
        follows = layer_costs(was, becomes, plan.contexts)
        if {name: getattr(layer, name) for name in follows} != follows:
            yield f"the costs of layer {layer.index}"
    if plan.changes != counted_changes(plan.layers):
        yield "how many layers it changes"


def _asserts(plan: Plan, recipe: Recipe, facts: ModelFacts) -> Iterator[str]:
    said = [(item.text, item.phase) for item in plan.asserts]
    if said != [(item.text, item.phase) for item in recipe.asserts]:
        yield "its asserts are not those of the recipe"
        return
    world = World(facts, cost=model_cost(facts, plan.specs), joint=plan.joint, profiles=plan.profiles)
    for item, assertion in zip(plan.asserts, recipe.asserts, strict=True):
        # The scores of single layers are in the plan as text alone.
        if not scores_in(assertion.expr) and item != (follows := assert_result(assertion, world)[0]):
            yield f"assert {item.text}: it says {_said(item)}, and {_said(follows)} follows"
    complete = bool(plan.loss.scores) or not plan.changed
    errored = plan.errored or any(finding.severity == "error" for finding in plan.findings)
    holds = complete and not errored and all(item.status in ("pass", "after healing") for item in plan.asserts)
    if (plan.complete, plan.errored, plan.applyable) != (complete, errored, holds):
        yield "whether it can be applied"


def _of_record(record: Record) -> Iterator[str]:
    plan = record.plan
    if record.plan_digest != plan.digest:
        yield "its plan has another digest"
    if record.layer_map != tuple(layer.index for layer in plan.layers):
        yield "which layers it has"
    if not _no_negatives([record.packed, _counts(record.evaluation), _counts(record.heal)]):
        yield "a count or a size is negative"
    if [(item.text, item.phase) for item in record.asserts] != [(item.text, item.phase) for item in plan.asserts]:
        yield "its asserts are not those of the plan"
        return
    for item, planned in zip(record.asserts, plan.asserts, strict=True):
        if item.phase is not Phase.POST and item != planned:
            yield f"assert {item.text}: it says {_said(item)}, and {_said(planned)} follows"
        elif item.phase is Phase.POST and item.status == "after healing":
            yield f"assert {item.text}: the result was not judged"
    if (record.status == "accepted") != (not any(item.failed for item in record.asserts)):
        yield f"its status, {record.status}"


COUNTS = "tokens", "sequences", "questions", "steps", "seconds", "trained_params", "perplexity"


def _counts(value: Any) -> list[Any]:
    """What cannot be below 0 in notes on an evaluation or a healing, however deep."""
    if isinstance(value, dict):
        own = [part for name, part in value.items() if name in COUNTS]
        return [*own, *(each for name, part in value.items() if name not in COUNTS for each in _counts(part))]
    return [each for part in value for each in _counts(part)] if isinstance(value, list) else []


def _said(item: AssertResult) -> str:
    return item.status if item.value is None else f"{item.status} at {item.value:.6g}"
