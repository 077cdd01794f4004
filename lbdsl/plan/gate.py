"""The quality gate: a recipe's asserts on the finished model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from lbdsl.layer.facts import ModelFacts
from lbdsl.plan.cost import base_cost, model_cost
from lbdsl.plan.evaluate import World, holds, walk
from lbdsl.plan.schema import AssertResult, Plan
from lbdsl.plan.shown import deciding
from lbdsl.recipe.schema import Assertion, Phase, PostScore, Recipe


def judges(recipe: Recipe) -> bool:
    """Whether the finished model is to be judged: an `eval` block, or an assert that only it can answer."""
    return recipe.eval is not None or any(item.phase is Phase.POST for item in recipe.asserts)


Scores = Mapping[str, Mapping[str, float]]
"""The finished model's scores by name, for each text that it was judged on."""


def gate_of(plan: Plan, recipe: Recipe, facts: ModelFacts) -> Callable[[Scores], tuple[AssertResult, ...]]:
    """From the finished model's scores to the results of all asserts, in the recipe's order.

    An assert must hold on every text, or on the one that it names. Asserts of earlier phases keep the plan's results. One
    without a truth value fails: a score that is not a number makes no condition hold, not even `not ppl_increase > 5%`.
    """

    def gate(post: Scores) -> tuple[AssertResult, ...]:
        worlds = {
            source: World(
                recipe,
                facts,
                cost=model_cost(facts, plan.specs),
                base=base_cost(facts),
                joint=plan.loss,
                post=scores,
                post_on=post,
            )
            for source, scores in post.items()
        }
        return tuple(_result(item, known, worlds) for item, known in zip(recipe.asserts, plan.asserts, strict=True))

    return gate


def _result(assertion: Assertion, known: AssertResult, worlds: Mapping[str, World]) -> AssertResult:
    if assertion.phase is not Phase.POST:
        return known
    named = {part.source for part in walk(assertion.expr) if isinstance(part, PostScore)}
    if not named - {None} <= worlds.keys():
        return AssertResult(text=assertion.text, phase="post", status="not measured")
    # Every score names its text: the others change nothing.
    asked = worlds if None in named else dict(list(worlds.items())[:1])
    results = [(_on(assertion, world), source) for source, world in asked.items()]
    failed = [(result, source) for result, source in results if result.status == "fail"]
    # Of several texts the one that counts is shown: the first that fails, else the one with the largest value.
    chosen, source = failed[0] if failed else max(results, key=lambda pair: abs(pair[0].value or 0.0))
    return chosen.model_copy(update={"on": source if len(asked) > 1 else None})


def _on(assertion: Assertion, world: World) -> AssertResult:
    shown = deciding(assertion.expr, world)
    value, unit = (float(shown.value.value), shown.value.unit) if shown is not None else (None, None)
    status: Literal["pass", "fail"] = "pass" if holds(assertion.expr, world).value else "fail"
    return AssertResult(text=assertion.text, phase="post", status=status, value=value, unit=unit)
