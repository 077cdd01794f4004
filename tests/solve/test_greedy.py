"""`measure { strategy = greedy }`: what is measured, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest

from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.solve.case import Case
from lbdsl.solve.choose import Judged, Problem
from lbdsl.solve.greedy import greedy
from lbdsl.solve.select import choice_of
from lbdsl.solve.table import Choices
from tests.plan_cases import llama_facts
from tests.solve.test_choose import recipe_of, scores_of

WINDOWS = "keep, swa(window=64)"


def problem_of(budgets: str, among: str = WINDOWS, layers: int = 6, seed: int = 0) -> Problem:
    recipe, facts = recipe_of(budgets, among), llama_facts(layers=layers)
    return choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(seed)), {}).unwrap()


class Model:
    """Its joint value is the sum of scores and of what pairs of changed layers do together."""

    def __init__(self, problem: Problem, pairs: dict[tuple[int, int], float] | None = None, others: float = 0.0):
        """`others`: what the other rules of the recipe do."""
        self.problem, self.pairs, self.others = problem, pairs or {}, others
        self.asked: list[Choices] = []

    def value(self, plan: Choices) -> float:
        changed = {layer for layer, number in plan.items() if self.problem.plain[layer] != number}
        return (
            self.others
            + self.problem.sum(plan)
            + sum(value for pair, value in self.pairs.items() if changed.issuperset(pair))
        )

    def measure(self, plans: Sequence[Choices], share: float) -> list[Measurement]:
        assert share == 1.0
        self.asked += plans
        return [Judged(Measurement(self.value(plan), 0.0, Unit.NATS, 10, 2)) for plan in plans]


@pytest.mark.parametrize("seed", range(5))
def test_where_scores_add_up_it_takes_the_least_and_measures_each_step_once(seed: int) -> None:
    problem = problem_of("kv(8Ki) <= 60%", seed=seed)
    model = Model(problem)
    found = greedy(problem, model.measure, tries=100)
    least = sorted(problem.options, key=lambda layer: problem.scores[layer, 1])
    taken = [layer for layer, number in found.best.items() if number == 1]
    assert sorted(taken) == sorted(least[: len(taken)])
    assert not problem.broken(found.best)
    # And the plan that it begins with.
    assert found.spent == len(model.asked) == len(taken) + 1
    assert found.least == pytest.approx(problem.sum(found.best))
    assert [judged.value.value for judged in found.joint.values()] == [pytest.approx(problem.sum(found.best))]


@pytest.mark.parametrize("seed", range(4))
def test_the_damage_of_other_rules_chooses_nothing(seed: int) -> None:
    problem = problem_of("kv(8Ki) <= 40%", "keep, swa(window=64), drop", seed=seed)
    alone, beside = (greedy(problem, Model(problem, others=others).measure, tries=1000) for others in (0.0, 5.0))
    assert alone.best == beside.best
    assert alone.spent == beside.spent


def test_what_two_layers_do_together_is_measured() -> None:
    problem = problem_of("kv(8Ki) <= 70%")
    first, second, third, *_ = sorted(problem.options, key=lambda layer: problem.scores[layer, 1])
    for pair in ((first, second), (second, first)):
        model = Model(problem, {pair: 10.0})
        found = greedy(problem, model.measure, tries=100)
        assert [layer for layer, number in sorted(found.best.items()) if number] == sorted((first, third))
        assert found.spent == 4


def test_after_the_last_try_scores_decide() -> None:
    problem = problem_of("kv(8Ki) <= 50%")
    none, one = (greedy(problem, Model(problem).measure, tries=tries) for tries in (0, 1))
    assert none.best == one.best
    assert (none.spent, one.spent) == (0, 1)
    assert not none.joint
    assert not one.joint, "the plan itself was not measured"


@pytest.mark.large
def test_several_budgets_and_alternatives() -> None:
    for seed in range(20):
        problem = problem_of("kv(8Ki) <= 40%, weights <= 90%", "keep, swa(window=64), kv_heads(1), drop", seed=seed)
        model = Model(problem)
        found = greedy(problem, model.measure, tries=1000)
        assert not problem.broken(found.best)
        assert model.value(found.best) >= found.least - 1e-9
        assert len({tuple(sorted(plan.items())) for plan in model.asked}) == len(model.asked)


def test_a_broken_model_is_taken_last() -> None:
    problem = problem_of("kv(8Ki) <= 90%")
    worst = max(problem.options, key=lambda layer: problem.scores[layer, 1])
    model = Model(problem, {(layer, layer): math.inf for layer in problem.options if layer != worst})
    assert greedy(problem, model.measure, tries=100).best[worst] == 1


def test_no_plan_keeps_the_budgets() -> None:
    problem = problem_of("weights <= 10%")
    assert greedy(problem, Model(problem).measure, tries=100) is None
