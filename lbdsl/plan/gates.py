"""The gates of a plan: a recipe's asserts, on the selection and on the finished model. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.units import Unit
from lbdsl.layer.cost import model_cost
from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.schema import AssertResult, Plan, Status
from lbdsl.recipe.schema import Phase, PostScore, Recipe, ResolvedAssertion
from lbdsl.recipe.types import walk
from lbdsl.solve.evaluate import DecidingValue, World, deciding, evaluate, rooms

Scores = Mapping[str, Mapping[str, float]]
"""The finished model's scores by name, for each text that it was judged on, or each task."""


def judges(recipe: Recipe) -> bool:
    """Whether the finished model must be evaluated: there is an `eval` block, or an assert that needs it."""
    return recipe.eval is not None or any(item.phase is Phase.POST for item in recipe.asserts)


def assert_result(assertion: ResolvedAssertion, world: World) -> tuple[AssertResult, tuple[Diagnostic, ...]]:
    """The result of an assert before the model is changed, and an error if it fails or has no value."""
    if assertion.phase is Phase.POST:
        return _result(assertion, "after healing"), ()
    truth, found = evaluate(assertion.expr, world)
    if truth is None:
        return _result(assertion, "not measured" if all(d.code == "LB323" for d in found) else "fail"), found
    # Before selection, asserts are only about facts of the base, which their text names.
    shown = deciding(assertion.expr, world) if world.cost is not None else None
    return _result(assertion, "pass" if truth else "fail", shown), () if truth else (_failed(assertion, shown),)


def _failed(assertion: ResolvedAssertion, shown: DecidingValue | None) -> Diagnostic:
    """The error for an assert that does not hold; `shown` is the value that decides it."""
    static = assertion.phase is Phase.STATIC
    help = "change more layers, or loosen the assert"
    if not static:
        help = "change fewer layers; what healing should repair is gated with `ppl_increase` or `kl_healed`"
    message = f"`assert {assertion.text}` fails" + (f": {shown}" if shown is not None else "")
    return error("LB321" if static else "LB322", message, assertion.span, help=help)


def gate_of(plan: Plan, recipe: Recipe, facts: ModelFacts) -> Callable[[Scores, Scores], tuple[AssertResult, ...]]:
    """A function from the finished model's scores on texts and tasks to the results of all asserts, in the recipe's order.

    An assert must hold on every text, or on the one that it names. Asserts of earlier phases keep the plan's results. An
    assert without a value fails: with a NaN or infinite score no condition holds, not even `not ppl_increase > 5%`.
    """
    cost, joint = model_cost(facts, plan.specs), plan.loss.values

    def gate(post: Scores, tasks: Scores) -> tuple[AssertResult, ...]:
        judged = World(facts, cost=cost, joint=joint, profiles=recipe.profiles)
        worlds = {source: replace(judged, post={**post, **tasks, "": post[source]}) for source in post}
        pairs = zip(recipe.asserts, plan.asserts, strict=True)
        return tuple(_judged(item, worlds, tasks) if item.phase is Phase.POST else known for item, known in pairs)

    return gate


def _judged(assertion: ResolvedAssertion, worlds: Mapping[str, World], tasks: Scores) -> AssertResult:
    named = {part.source for part in walk(assertion.expr) if isinstance(part, PostScore)}
    if not named - {None} <= worlds.keys() | tasks.keys():
        return _result(assertion, "not measured")
    # If every score names its text, one world is enough.
    asked = worlds if None in named else dict(list(worlds.items())[:1])
    results = []
    for source, world in asked.items():
        status: Status = "pass" if evaluate(assertion.expr, world).value else "fail"
        result = _result(assertion, status, deciding(assertion.expr, world), source if len(asked) > 1 else None)
        results.append(((min(rooms(assertion.expr, world), default=math.inf), -abs(result.value or 0.0)), result))
    # Of several texts, show the first that fails, else the one that is nearest to failing; of those for which that is not
    # known, the one with the largest value.
    failing = (result for _, result in results if result.status == "fail")
    return next(failing, None) or min(results, key=lambda item: item[0])[1]


def _result(
    assertion: ResolvedAssertion, status: Status, shown: DecidingValue | None = None, on: str | None = None
) -> AssertResult:
    value, unit = (float(shown.value), shown.unit) if shown is not None else (None, None)
    if shown is not None and shown.share is not None:
        value, unit = float(shown.share), Unit.RATIO
    return AssertResult(text=assertion.text, phase=assertion.phase, status=status, value=value, unit=unit, on=on)
