"""The quality gate: a recipe's asserts on the finished model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from lbdsl.core.facts import ModelFacts
from lbdsl.plan.cost import base_cost, plan_cost
from lbdsl.plan.evaluate import World, holds
from lbdsl.plan.schema import AssertResult, Plan
from lbdsl.plan.shown import deciding
from lbdsl.recipe.schema import Assertion, Phase, Recipe


def judges(recipe: Recipe) -> bool:
    """Whether the finished model is to be judged: an `eval` block, or an assert that only it can answer."""
    return recipe.eval is not None or any(item.phase is Phase.POST for item in recipe.asserts)


def gate_of(plan: Plan, recipe: Recipe, facts: ModelFacts) -> Callable[[Mapping[str, float]], tuple[AssertResult, ...]]:
    """From the finished model's scores, by name, to the results of all asserts, in the recipe's order.

    Asserts of earlier phases keep the plan's results. One without a truth value fails: a score that is no number makes no
    condition hold, not even `not ppl_increase > 5%`.
    """

    def gate(post: Mapping[str, float]) -> tuple[AssertResult, ...]:
        world = World(recipe, facts, cost=plan_cost(facts, plan), base=base_cost(facts), joint=plan.loss, post=post)
        return tuple(_result(item, known, world) for item, known in zip(recipe.asserts, plan.asserts, strict=True))

    return gate


def _result(assertion: Assertion, known: AssertResult, world: World) -> AssertResult:
    if assertion.phase is not Phase.POST:
        return known
    shown = deciding(assertion.expr, world)
    value = float(shown.value.value) if shown is not None else None
    status: Literal["pass", "fail"] = "pass" if holds(assertion.expr, world).value else "fail"
    return AssertResult(text=assertion.text, phase="post", status=status, value=value)
