"""`choose`: the solver against brute force, with pair terms, formats and budgets that are no sums."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, islice, product
from random import Random

import numpy as np
import pytest

from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.units import Unit
from lbdsl.cost.cost import model_cost
from lbdsl.cost.facts import ModelFacts
from lbdsl.parts.int_weights import Int
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import Recipe
from lbdsl.solve import optimum
from lbdsl.solve.case import Case
from lbdsl.solve.choose import Judged, Problem
from lbdsl.solve.optimum import families, solutions, unmet
from lbdsl.solve.search import PATIENCE, PROPOSED, SHARE, STARTS, Found, key_of, search
from lbdsl.solve.select import choice_of, select
from lbdsl.solve.table import Key
from tests.plan.test_predicted_values import PROFILES
from tests.plan_cases import llama_facts

ALTERNATIVES = "keep, swa(window=64), kv_heads(1), kv_heads(1) + swa(window=64), drop"


def recipe_of(budgets: str, among: str = ALTERNATIVES, before: str = "", layers: str = "all") -> Recipe:
    text = f"lbr 1\n{before}\nchoose for layers {layers} among {among} minimizing kl subject to {budgets}\nelse keep"
    return recipe_from_text(text).unwrap()


def scores_of(recipe: Recipe, facts: ModelFacts, random: Random) -> dict[Request, Measurement]:
    case = Case(recipe, facts).measurable().unwrap()
    return {request: Measurement(random.random(), 0.1, Unit.NATS, 10, 2) for request in case.requests}


def test_a_sum_of_metrics_is_minimized() -> None:
    facts, text = (
        llama_facts(layers=4),
        "choose for layers all among keep, swa(window=64), drop minimizing {} subject to kv(8Ki) <= 60%",
    )
    recipe = recipe_from_text(f"lbr 1\n{text.format('kl + 0.5 * recall')}\nelse keep").unwrap()
    scores = scores_of(recipe, facts, Random(3))
    case = Case(recipe, facts)
    assert {request.metric for request in case.requests} == {"kl", "recall"}
    problem = choice_of(case, scores, {}).unwrap()
    for (layer, number), value in problem.scores.items():
        action = {1: "swa(window=64)", 2: "drop"}.get(number)
        alone = [scores[Request(metric, action, layer)].value for metric in ("kl", "recall")] if action else [0.0, 0.0]
        assert value == pytest.approx(alone[0] + 0.5 * alone[1])
    least, plan = every_plan(problem)[0]
    assert next(solutions(problem)) == plan
    alone = {metric: recipe_from_text(f"lbr 1\n{text.format(metric)}\nelse keep").unwrap() for metric in ("kl", "recall")}
    others = [next(solutions(choice_of(Case(one, facts), scores, {}).unwrap())) for one in alone.values()]
    assert plan not in others, "neither metric alone chooses it"
    assert least < min(map(problem.sum, others))
    selected = select(case, scores, chosen=plan).unwrap()
    changed = next(layer for layer in selected.layers if layer.before != layer.after)
    assert "kl(" in changed.reason
    assert ", recall(" in changed.reason


class Fake:
    """Joint values that are no sums of scores: what two neighbours do together counts more, or less."""

    def __init__(self, problem: Problem, scores: dict[Request, Measurement], random: Random, together: float):
        self.problem, self._asked = problem, set[Key]()
        self._alone = {
            (metric, layer, number): scores[Request(metric, by.items[0].action_text, layer)].value
            for number, by in enumerate(problem.choosing.scores)
            if by is not None
            for metric in problem.choosing.metrics
            for layer in problem.options
        }
        self._pairs = {(one, one + 1): random.uniform(0, together) for one in range(len(problem.options) - 1)}

    def value(self, metric: str, plan: dict[int, int]) -> float:
        alone = {layer: self._alone.get((metric, layer, number), 0.0) for layer, number in plan.items()}
        both = sum(factor * (alone[one] * alone[other]) ** 0.5 for (one, other), factor in self._pairs.items())
        return sum(alone.values()) + both

    @property
    def asked(self) -> int:
        """Each plan once: what is measured is kept."""
        return len(self._asked)

    def judged(self, plan: dict[int, int]) -> Judged:
        found = {m: Measurement(self.value(m, plan), 0.0, Unit.NATS, 10, 2) for m in self.problem.choosing.metrics}
        return self.problem.judged(plan, found)

    def __call__(self, plans: list[dict[int, int]], share: float) -> list[Judged]:
        self._asked |= {key_of(plan) for plan in plans}
        return [self.judged(plan) for plan in plans]


@pytest.mark.large
@pytest.mark.parametrize("together", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    "rest",
    [
        "minimizing kv(8Ki) subject to kl <= 0.6, recall <= 0.9",
        "minimizing weights subject to kl + 0.5 * recall <= 0.8, serves('transformers')",
        "minimizing kl subject to kv(8Ki) <= 60%, recall <= 0.9",
        "minimizing kl + 0.2 * recall subject to kv(8Ki) <= 60%, nll <= 0.8",
    ],
)
def test_measured_bounds_agree_with_brute_force(rest: str, seed: int, together: float) -> None:
    random, facts = Random(seed), llama_facts(layers=5)
    rest = rest.replace("'", '"')
    recipe = recipe_from_text(f"lbr 1\nchoose for layers all among keep, swa(window=64), drop {rest}\nelse keep").unwrap()
    scores = scores_of(recipe, facts, random)
    forms = {"transformers": (lambda specs: True,)}
    problem = choice_of(Case(recipe, facts), scores, forms).unwrap()
    fake = Fake(problem, scores, random, together)
    plans = [dict(zip(problem.options, numbers, strict=True)) for numbers in product(*problem.options.values())]
    allowed = [plan for plan in plans if not problem.broken(plan)]
    best = min(map(fake.judged, allowed), key=lambda judged: judged.rank)
    found = search(problem, fake, tries=120, share=1.0)
    assert found is not None
    taken = fake.judged(dict(found.best))
    assert taken.excess == best.excess
    assert taken.rank[1] == pytest.approx(best.rank[1], abs=1e-9)
    assert fake.asked <= 120
    assert not problem.broken(found.best)
    for tries in (1, 2, 4):
        few = Fake(problem, scores, random, together)
        assert search(problem, few, tries=tries, share=1.0) is not None
        assert few.asked <= tries


@pytest.mark.parametrize(
    ("before", "among", "rest"),
    [
        ("", "keep, swa(window=64), drop", 'kv(8Ki) <= 60%, recall <= 0.9, serves("vllm")'),
        ("layers 4 width(96)", "keep, quantize(bits=4, group=64), drop(mlp)", "weights <= 90%, kl <= 0.9"),
    ],
)
def test_bounds_on_what_is_measured_where_alternatives_are_left_out(before: str, among: str, rest: str) -> None:
    """What no format has beside another, and what does not fit what other rules make of a layer, is in no bound either."""
    random, facts = Random(5), llama_facts(layers=5)
    recipe = recipe_of(rest, among=among, before=before)
    scores = scores_of(recipe, facts, random)
    forms = {
        "vllm": (
            lambda specs: all(spec.mixer is not None for spec in specs),
            lambda specs: all(spec.mixer is None or spec.mixer.window is None for spec in specs),
        )
    }
    problem = choice_of(Case(recipe, facts), scores, forms).unwrap()
    if before:
        assert (4, 1) not in problem.places
    fake = Fake(problem, scores, random, 0.5)
    plans = [dict(zip(problem.options, numbers, strict=True)) for numbers in product(*problem.options.values())]
    best = min((fake.judged(plan) for plan in plans if not problem.broken(plan)), key=lambda judged: judged.rank)
    found = search(problem, fake, tries=120, share=1.0)
    assert found is not None
    assert fake.judged(dict(found.best)).rank == pytest.approx(best.rank, abs=1e-9)


def test_few_tries_scale_the_guides() -> None:
    """Where the model as a whole loses four times what the scores add up to, all first plans are far over the bound."""
    facts = llama_facts(layers=12)
    text = "lbr 1\nchoose for layers all among keep, swa(window=64) minimizing kv(8Ki) subject to kl <= 0.4\nelse keep"
    recipe = recipe_from_text(text).unwrap()
    scores = {request: Measurement(0.03, 0.0, Unit.NATS, 10, 2) for request in Case(recipe, facts).requests}
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()

    def measure(plans, share):
        lost = [Measurement(0.12 * sum(plan.values()), 0.0, Unit.NATS, 10, 2) for plan in plans]
        return [problem.judged(plan, {"kl": one}) for plan, one in zip(plans, lost, strict=True)]

    found = search(problem, measure, tries=8, share=1.0)
    assert found is not None
    assert sum(found.best.values()) == 3
    assert found.spent <= 8


MEASURED = {
    ("kl", "swa(window=256)"): (
        "0.62 0.9 3 6.2 3.4 5.5 3.9 4.8 6.6 4.1 3 0.43 5.3 4 7.5 9.8 4.6 8.9 15 5.4 13 8.6 3.4 8.3 11 4 2.4 8.2 3.3 2.1"
    ),
    ("kl", "swa(window=128)"): (
        "2.1 2.2 6.2 8.6 4.7 8.2 5.1 7 11 5.8 4.2 0.89 6 5.1 13 12 5 13 22 6.5 26 10 4.2 13 19 4.7 3.3 9.7 6 3"
    ),
    ("recall", "swa(window=256)"): (
        "71 -9.6 54 -49 120 64 59 730 740 62 -36 -12 96 100 430 510 73 760 2e+03 -130 580 120 290 1.6e+03 130 -31 "
        "34 -40 24 61"
    ),
    ("recall", "swa(window=128)"): (
        "97 -35 100 -12 180 67 47 610 660 -9.9 -29 -9.1 61 86 390 430 74 720 1.9e+03 -130 550 60 240 1.6e+03 110 "
        "-14 37 -39 0.7 36"
    ),
}
"""Thousandths of a nat by layer: windows of SmolLM2 with learned sinks, by a screen."""


def test_the_solver_finds_a_plan_where_there_are_many() -> None:
    """Its presolve, in versions 1.14 and 1.15, called this infeasible; without any window both bounds are kept."""
    text = (
        "lbr 1\nchoose for layers all among keep, swa(window=256), swa(window=128) minimizing kv(8Ki)\n"
        'subject to kl <= 0.05, recall <= 0.2, serves("vllm")\nelse keep'
    )
    recipe, facts = recipe_from_text(text).unwrap(), llama_facts(layers=30)
    case = Case(recipe, facts)
    scores = {
        r: Measurement(float(MEASURED[r.metric, str(r.action)].split()[r.layer]) / 1000, 0.0, Unit.NATS, 10, 2)
        for r in case.requests
    }

    def one_window(specs) -> bool:
        return len({spec.mixer.window.size for spec in specs if spec.mixer.window is not None}) <= 1

    problem = choice_of(case, scores, {"vllm": (one_window,)}).unwrap()
    first = next(solutions(problem))
    assert problem.within_guides(first)
    assert [sum(number == which for number in first.values()) for which in (1, 2)] == [14, 0]


@pytest.mark.large
@pytest.mark.parametrize(("together", "windows"), [(1.5, 8), (0.7, 18), (3.0, 4)])
def test_few_tries_come_to_the_bound(together: float, windows: int) -> None:
    """Whatever the model as a whole loses beside the sum, and though one format has nothing but the unchanged model."""
    facts = llama_facts(layers=20)
    recipe = recipe_from_text(
        "lbr 1\nchoose for layers all among keep, swa(window=64), swa(window=256)\n"
        'minimizing kv(8Ki) subject to kl <= 0.12, recall <= 9, serves("vllm")\nelse keep'
    ).unwrap()
    scores = {
        r: Measurement(0.01 if r.metric == "kl" else 0.0, 0.0, Unit.NATS, 10, 2) for r in Case(recipe, facts).requests
    }

    def one_window(specs) -> bool:
        return len({spec.mixer.window.size for spec in specs if spec.mixer.window is not None}) <= 1

    def none(specs) -> bool:
        return all(spec.mixer.window is None for spec in specs)

    problem = choice_of(Case(recipe, facts), scores, {"vllm": (one_window, none)}).unwrap()

    def measure(plans, share):
        lost = [together * 0.01 * sum(number > 0 for number in plan.values()) for plan in plans]
        found = (
            {"kl": Measurement(one, 0.0, Unit.NATS, 10, 2), "recall": Measurement(0, 0, Unit.NATS, 10, 2)} for one in lost
        )
        return [problem.judged(plan, one) for plan, one in zip(plans, found, strict=True)]

    found = search(problem, measure, tries=16, share=1.0)
    assert found is not None
    # Of 64 tokens each: as small a window costs as little.
    assert sum(number == 1 for number in found.best.values()) in (windows - 1, windows)
    assert not found.joint[key_of(found.best)].excess


def test_where_no_plan_keeps_a_bound_that_which_loses_least_is_measured() -> None:
    facts = llama_facts(layers=6)
    text = "lbr 1\nchoose for layers all among swa(window=64), drop minimizing kv(8Ki) subject to kl <= 0.1\nelse keep"
    recipe = recipe_from_text(text).unwrap()
    scores = {
        r: Measurement(0.5 if r.action == "drop" else 0.2, 0.0, Unit.NATS, 10, 2) for r in Case(recipe, facts).requests
    }
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()
    fake = Fake(problem, scores, Random(0), 0.0)
    found = search(problem, fake, tries=4, share=1.0)
    assert found is not None
    assert found.best == dict.fromkeys(range(6), 0)
    assert found.joint[key_of(found.best)].excess == pytest.approx(11)


def test_bounds_below_nothing_scale_no_guide() -> None:
    """A change that must gain: half of that would ask for less."""
    facts = llama_facts(layers=6)
    text = "choose for layers all among keep, swa(window=64) minimizing kv(8Ki) subject to recall <= -0.1, kl <= 0.3"
    recipe = recipe_from_text(f"lbr 1\n{text}\nelse keep").unwrap()
    worth = {"recall": -0.05, "kl": 0.06}
    scores = {r: Measurement(worth[r.metric], 0.0, Unit.NATS, 10, 2) for r in Case(recipe, facts).requests}
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()
    found = search(problem, Fake(problem, scores, Random(0), 0.0), tries=30, share=1.0)
    assert found is not None
    assert sum(found.best.values()) == 5
    assert not found.joint[key_of(found.best)].excess


def test_a_search_ends_where_nothing_keeps_a_bound() -> None:
    """With the nearest, though there are more plans."""
    facts = llama_facts(layers=20)
    text = "lbr 1\nchoose for layers all among keep, swa(window=64) minimizing kv(8Ki) subject to kl <= 0.1\nelse keep"
    recipe = recipe_from_text(text).unwrap()
    scores = {request: Measurement(0.005, 0.0, Unit.NATS, 10, 2) for request in Case(recipe, facts).requests}
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()

    def measure(plans, share):
        lost = [Measurement(0.15 + 0.001 * sum(plan.values()), 0.0, Unit.NATS, 10, 2) for plan in plans]
        return [problem.judged(plan, {"kl": one}) for plan, one in zip(plans, lost, strict=True)]

    found = search(problem, measure, tries=20, share=1.0)
    assert found is not None
    assert found.best == problem.plain
    assert found.spent <= 20


class Joint:
    """30 layers with windows or without: joint losses that are a power of the sum of what layers lose, where some two lose
    more together, or less; scores are off by a factor, and those of recall may be below 0."""

    MOST = np.array([0.05, 0.1])

    def __init__(self, seed: int, power: float):
        random, layers = Random(seed), 30
        text = "choose for layers all among keep, swa(window=256) minimizing kv(8Ki) subject to kl <= 0.05, recall <= 0.1"
        case = Case(recipe_from_text(f"lbr 1\n{text}\nelse keep").unwrap(), llama_facts(layers=layers, positions=8192))
        self.power = power
        sizes = ((0.004, 0.8), (0.02, 1.8))
        self.alone = np.array([[mean * math.exp(random.gauss(0, by)) for _ in range(layers)] for mean, by in sizes])
        self.pairs = np.zeros((2, layers, layers))
        for metric, (i, j) in product(range(2), combinations(range(layers), 2)):
            if random.random() < 0.15:
                both = 0.5 * random.gauss(0, 1) * math.sqrt(self.alone[metric, i] * self.alone[metric, j])
                self.pairs[metric, i, j] = self.pairs[metric, j, i] = both
        scores = {}
        for request in case.measurable().unwrap().requests:
            lost = self.alone[int(request.metric == "recall"), request.layer] * math.exp(random.gauss(0, 0.3))
            lost += random.gauss(0, 0.03) if request.metric == "recall" else 0.0
            scores[request] = Measurement(lost, 0.0, Unit.NATS, 10, 2)
        self.problem = choice_of(case, scores, {}).unwrap()

    def shares(self, plans_PL: np.ndarray) -> np.ndarray:
        """What plans lose of each bound [bounds, plans]."""
        sums = self.alone @ plans_PL.T + np.einsum("pi,bij,pj->bp", plans_PL, self.pairs, plans_PL, optimize=True) / 2
        shares = sums / self.MOST[:, None]
        return np.sign(shares) * abs(shares) ** self.power

    def __call__(self, plans: list[dict[int, int]], share: float) -> list[Judged]:
        lost = self.shares(np.array([[plan[i] for i in range(30)] for plan in plans], float)) * self.MOST[:, None]
        names = ("kl", "recall")
        found = [
            {m: Measurement(float(one), 0.0, Unit.NATS, 10, 2) for m, one in zip(names, of, strict=True)} for of in lost.T
        ]
        return [self.problem.judged(plan, one) for plan, one in zip(plans, found, strict=True)]

    def reference(self) -> int:
        """How many windows the best plan has that changes of one layer, exchanges of two, and of one for two come to."""
        most, one = 0, np.eye(30)
        starts = [(self.alone / self.MOST[:, None]).sum(0), *self.alone, np.array(Random(0).sample(range(30), 30))]
        for order in starts:
            plan = np.zeros(30)
            for layer in np.argsort(order):
                if self.shares(plan[None] + one[layer]).max() <= 1:
                    plan = plan + one[layer]
            while True:
                inside, outside = np.flatnonzero(plan), np.flatnonzero(plan == 0)
                swaps = [plan - one[i] + one[j] for i, j in product(inside, outside)]
                near = [plan + one[j] for j in outside]
                near += [plan - one[i] + one[j] + one[k] for i in inside for j, k in combinations(outside, 2)]
                plans = [plan, *near, *swaps]
                worst = self.shares(np.array(plans)).max(0).round(9)
                best = min(range(len(plans)), key=lambda n: (worst[n] > 1, -plans[n].sum(), worst[n], n))
                if best == 0:
                    break
                plan = plans[best]
            most = max(most, int(plan.sum()))
        return most


@pytest.mark.parametrize("power", [0.7, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_few_tries_come_near_the_least_cache(seed: int, power: float) -> None:
    """Beside a search by exchanges: within 15 % of its cache at 24 plans."""
    joint = Joint(seed, power)

    def cache(windows: int) -> float:
        return (30 - windows + windows * 256 / 8192) / 30

    least = cache(joint.reference())
    for tries, most in ((24, 1.15), (16, 1.25), (6, 1.5)):
        found = search(joint.problem, joint, tries=tries, share=1.0)
        assert found is not None
        assert found.spent <= tries
        assert not found.joint[key_of(found.best)].excess
        assert cache(sum(found.best.values())) <= most * least, (tries, sum(found.best.values()), joint.reference())


def test_a_plan_that_keeps_all_bounds_is_before_one_that_does_not() -> None:
    def judged(value: float, *lost: float) -> Judged:
        bounds = zip(lost, (0.1, 2.0), strict=True)
        return Judged(nats(value), tuple((nats(one), most) for one, most in bounds))

    def nats(value: float) -> Measurement:
        return Measurement(value, 0.1, Unit.NATS, 10, 2)

    kept, dear, by_half, by_tenth, broken = (
        judged(0.3, 0.1, 2.0),
        judged(0.9, 0.0, 0.0),
        judged(0.1, 0.15, 0.0),
        judged(0.2, 0.1, 2.2),
        judged(0.0, math.nan, 0.0),
    )
    assert sorted([broken, by_half, dear, by_tenth, kept], key=lambda one: one.rank) == [
        kept,
        dear,
        by_tenth,
        by_half,
        broken,
    ]


def test_without_layers_there_is_one_plan() -> None:
    facts = llama_facts(layers=6)
    for budget, plans in (("kv(8Ki) <= 100%", [{}]), ("kv(8Ki) <= 50%", [])):
        recipe = recipe_of(budget, before="layers all keep")
        problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
        assert list(solutions(problem)) == plans


def every_plan(problem: Problem) -> list[tuple[float, dict[int, int]]]:
    """All plans that keep the budgets, the best first."""
    plans = (dict(zip(problem.options, numbers, strict=True)) for numbers in product(*problem.options.values()))
    return sorted(((problem.sum(plan), plan) for plan in plans if not problem.broken(plan)), key=lambda found: found[0])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pairs", [False, True])
def test_brute_force_agrees(seed: int, pairs: bool) -> None:
    random = Random(seed)
    among = random.choice([ALTERNATIVES, "keep, swa(window=64), drop"])
    before = random.choice(["", "layers 0 keep", "layers all quantize(bits=8)", "layers 1 drop"])
    assert_brute_force_agrees(random, among, before, random.randint(3, 5), pairs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pairs", [False, True])
def test_brute_force_agrees_on_eight_layers(seed: int, pairs: bool) -> None:
    assert_brute_force_agrees(Random(seed), "keep, swa(window=64), kv_heads(1), drop", "", 8, pairs)


def assert_brute_force_agrees(random: Random, among: str, before: str, layers: int, pairs: bool) -> None:
    """With random scores, pair terms and three budgets."""
    kv, weights, flops = (random.randint(*ends) for ends in ((15, 90), (60, 95), (60, 95)))
    recipe = recipe_of(f"kv(8Ki) <= {kv}%, weights <= {weights}% and flops(1Ki) <= {flops}%", among, before)
    facts = llama_facts(layers=layers)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, random), {}).unwrap()
    if pairs:
        places = problem.places
        chosen = {
            (one, other): random.uniform(-0.5, 0.5)
            for one in places
            for other in places
            if one[0] < other[0] and one[1] and other[1]
        }
        problem = replace(problem, pairs=chosen)
    expected = every_plan(problem)
    found = list(islice(solutions(problem), 5))
    assert [problem.sum(plan) for plan in found] == pytest.approx([value for value, _ in expected[:5]])
    assert all(not problem.broken(plan) for plan in found)
    if not expected:
        assert unmet(problem).code == "LB356"


def test_what_it_chooses_is_what_the_layers_become() -> None:
    recipe = recipe_of("kv(8Ki) <= 40%, weights <= 70%", before="layers all quantize(bits=8)", layers="all except 0")
    facts = llama_facts(layers=6)
    scores = scores_of(recipe, facts, Random(0))
    selection = select(Case(recipe, facts), scores).unwrap()
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()
    chosen = next(solutions(problem))
    assert selection.specs == tuple(layer.spec for layer in problem.cost(chosen).layers)
    assert set(chosen) == {1, 2, 3, 4, 5}
    assert selection.layers[0].after.mixer == facts.layer_specs[0].mixer
    named = recipe.rules[1].selector.alternatives[chosen[2]]
    assert {a.text() for a in named} <= {item.action.text() for item in selection.layers[2].actions}
    assert "chosen among 5" in selection.layers[2].reason


def test_a_layer_that_an_earlier_rule_touched_has_no_choice() -> None:
    recipe = recipe_of("kv(8Ki) <= 60%", "keep, swa(window=64)", "layers 1 kv_heads(1)")
    facts = llama_facts(layers=4)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
    # Other paths of that layer are free, but `swa` and `kv_heads` do not touch.
    assert set(problem.options) == {0, 1, 2, 3}
    recipe = recipe_of("kv(8Ki) <= 60%", "keep, swa(window=64)", "layers 1 drop")
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
    assert set(problem.options) == {0, 2, 3}


def test_a_budget_that_nothing_meets_says_how_near_it_comes() -> None:
    recipe = recipe_of("kv(8Ki) <= 10%, weights <= 99%", "keep, kv_heads(1)")
    facts = llama_facts(layers=4)
    found = select(Case(recipe, facts), scores_of(recipe, facts, Random(0)))
    (problem,) = found.diagnostics
    assert problem.code == "LB356"
    assert "50.0 %" in problem.message
    assert "`kv(8Ki) <= 10%`" in problem.message
    recipe = recipe_of("kv(8Ki) <= 60%, kv(8Ki) >= 80%", "keep, kv_heads(1)")
    (problem,) = select(Case(recipe, facts), scores_of(recipe, facts, Random(0))).diagnostics
    assert "without `kv(8Ki) >= 80%`" in problem.help[0]
    recipe = recipe_of("weights <= 40%", "keep, quantize(bits=4)", "layers all quantize(bits=8)")
    (problem,) = select(Case(recipe, facts), scores_of(recipe, facts, Random(0))).diagnostics
    assert (problem.code, "move `choose` before" in problem.help[0]) == ("LB356", True)


def test_a_kept_layer_is_open_to_later_rules() -> None:
    for rules in (
        "{choose}\nlayers all quantize(bits=8)",
        "layers all quantize(bits=8)\n{choose}",
        "{choose}\nelse quantize(bits=8)",
    ):
        choose = "choose for layers all among keep, swa(window=64) minimizing kl subject to kv(8Ki) <= 60%"
        recipe = recipe_from_text("lbr 1\n" + rules.format(choose=choose)).unwrap()
        facts = llama_facts(layers=4)
        selection = select(Case(recipe, facts), scores_of(recipe, facts, Random(0))).unwrap()
        assert [len(spec.weights) for spec in selection.specs] == [7] * 4
        assert {spec.mixer.window is None for spec in selection.specs} == {True, False}


def test_a_format_may_want_all_layers_alike() -> None:
    recipe = recipe_of('kv(8Ki) <= 2%, serves("vllm")', "swa(window=256), swa(window=64)")
    facts = llama_facts(layers=4)

    def one_window(specs) -> bool:
        return len({spec.mixer.window.size for spec in specs}) == 1

    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {"vllm": (one_window,)}).unwrap()
    assert list(solutions(problem)) == [dict.fromkeys(range(4), 1)]


def test_an_alternative_that_no_profile_prices_is_not_chosen() -> None:
    recipe = recipe_of("latency(1Ki, 1) <= 90%", "keep, quantize(bits=8), swa(window=64), drop")
    facts = llama_facts(layers=4)
    priced = replace(recipe, profiles=PROFILES)
    problem = choice_of(Case(priced, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
    chosen = next(solutions(problem))
    assert 1 not in chosen.values()
    assert problem.sum(chosen) == pytest.approx(every_plan(problem)[0][0])
    found = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {})
    assert [problem.code for problem in found.diagnostics] == ["LB353"]


@pytest.mark.large
def test_what_is_predicted_is_a_sum_also_where_the_base_is_faster() -> None:
    """Of weights that slow it down more may be lost, of windows less gained: the solver knows both."""
    recipe = recipe_of("latency(1Ki, 1) <= 80%", "keep, swa(window=64), drop", "layers all quantize(bits=8)")
    facts = llama_facts(layers=5)
    profile = PROFILES["transformers"]
    stored = dict.fromkeys(facts.linear_maps[0], Int(bits=8, group=64))
    quantized = model_cost(facts, [spec.replace(weights=stored) for spec in facts.layer_specs])
    # A step takes 2 ms longer.
    slower = 2e-3 / sum(layer.packed_bytes for layer in quantized.layers)
    steps = {batch: (*each[:5], slower, *each[6:]) for batch, each in profile.constants["steps"].items()}
    known = {"packed": ("W8A16, groups of 64",), "saved": {"steps": (0.9, 1.7)}}
    profile = replace(profile, constants={**profile.constants, "steps": steps}, **known)
    priced = replace(recipe, profiles={"transformers": profile})
    problem = choice_of(Case(priced, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
    assert problem.broken(problem.plain) == (0,)
    for chosen in product(range(3), repeat=5):
        plan = dict(enumerate(chosen))
        least = min(
            limit.start + sum(limit.changes.get(place, 0.0) for place in plan.items()) for limit in problem.priced[0]
        )
        assert (least < 0) == bool(problem.broken(plan)), plan
    assert problem.sum(next(solutions(problem))) == pytest.approx(every_plan(problem)[0][0])


def test_broken_plans_are_never_the_best() -> None:
    recipe = recipe_of("kv(8Ki) <= 60%", "keep, swa(window=64), drop")
    facts = llama_facts(layers=5)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()

    def measure(plans, share):
        values = (math.nan if plan[4] == 2 else sum(plan.values()) for plan in plans)
        return [Judged(Measurement(value, 0.1, Unit.NATS, 10, 2)) for value in values]

    found = search(problem, measure, tries=60)
    assert found.best[4] != 2
    assert any(math.isnan(judged.value.value) for judged in found.joint.values())
    assert found.spent <= 60
    assert math.isfinite(next(iter(found.joint.values())).value.value)


@pytest.mark.parametrize("share", [SHARE, 1.0])
def test_no_neighbour_is_measured_twice(share: float) -> None:
    recipe = recipe_of("kv(8Ki) <= 60%", "keep, swa(window=64), drop")
    facts = llama_facts(layers=20)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
    asked: list[dict[int, int]] = []

    def measure(plans, part):
        asked.extend(plans)
        return [Judged(Measurement(0.1, 0.1, Unit.NATS, 10, 2)) for _ in plans]

    found = search(problem, measure, tries=300, share=share)
    rounds = [key_of(plan) for plan in asked[STARTS:] if plan != found.best]
    assert len(rounds) == len(set(rounds)) == PATIENCE * PROPOSED
    assert found.spent == STARTS + share * len(rounds)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_scores_of_any_size_are_told_apart(unit: float) -> None:
    recipe = recipe_of("kv(8Ki) <= 50%", "keep, swa(window=64), drop")
    facts, random = llama_facts(layers=6), Random(2)
    scores = {r: replace(m, value=unit * m.value) for r, m in scores_of(recipe, facts, random).items()}
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()
    expected = [value for value, _ in every_plan(problem)[:5]]
    assert [problem.sum(plan) for plan in islice(solutions(problem), 5)] == pytest.approx(expected, rel=1e-9, abs=0)


def test_layers_of_two_kinds_may_have_a_window_of_their_own_each() -> None:
    """As Gemma 3: a format has one window for the layers that have one, and cannot give one to the others."""
    base = llama_facts(layers=6)
    own = llama_facts(native_window=256).layer_specs[0]
    facts = replace(base, layer_specs=tuple(own if i % 2 else base.layer_specs[0] for i in range(6)))

    def form(specs) -> bool:
        windows = {spec.mixer.window.size for spec in specs if spec.mixer.window is not None}
        return len(windows) == 1 and all((spec.mixer.window is not None) == bool(i % 2) for i, spec in enumerate(specs))

    recipe = recipe_of('kv(1Ki) <= 90%, serves("llamacpp")', "keep, swa(window=64)")
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {"llamacpp": (form,)}).unwrap()
    assert list(solutions(problem)) == [dict(enumerate((0, 1) * 3))]


def test_an_alternative_that_does_not_go_with_other_weights_is_left_out() -> None:
    rules = "layers all quantize(bits=4, group=64)"
    recipe = recipe_of("kv(8Ki) <= 90%", "keep, width(70%), swa(window=64)", rules)
    facts = llama_facts(layers=3)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()
    width = problem.case.recipe.rules[1].selector.alternatives[1][0].change(facts.layer_specs[0], ()).ffn.width
    assert width % 64
    assert set(problem.options.values()) == {(0, 2)}


def test_few_tries_are_searched_too() -> None:
    recipe = recipe_of("kv(8Ki) <= 60%", "keep, swa(window=64), drop")
    facts = llama_facts(layers=12)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {}).unwrap()

    def measure(plans, part):
        # The later a plan is asked for, the better it is.
        measured.append(part * len(plans))
        return [
            Judged(Measurement(1.0 / (len(measured) + plan[0] + number), 0.1, Unit.NATS, 10, 2))
            for number, plan in enumerate(plans)
        ]

    for share in (SHARE, 1.0):
        measured: list[float] = []
        found = search(problem, measure, tries=12, share=share)
        assert STARTS < found.spent <= 12
        assert len(found.joint) > STARTS


@pytest.mark.parametrize(
    ("rest", "measured"),
    [("kl subject to kv(8Ki) <= 100%", False), ("kv(8Ki) subject to kv(8Ki) <= 100%, kl <= 9", True)],
)
def test_nothing_is_measured_where_the_unchanged_model_keeps_the_budgets(rest: str, measured: bool) -> None:
    """But where a cost is minimized: another plan may cost less."""
    text = f"lbr 1\nchoose for layers all among keep, swa(window=64), drop minimizing {rest}\nelse keep"
    recipe, facts = recipe_from_text(text).unwrap(), llama_facts(layers=4)
    scores = scores_of(recipe, facts, Random(1))
    problem = choice_of(Case(recipe, facts), scores, {}).unwrap()
    fake = Fake(problem, scores, Random(1), 0.0)
    found = search(problem, fake, tries=12)
    assert (fake.asked > 0) is measured
    if measured:
        assert problem.price(found.best) == 0
    else:
        assert found == Found(dict.fromkeys(range(4), 0), 0.0, {})


def test_the_best_of_each_kind_is_measured_where_exchanges_do_not_lead_there() -> None:
    """One format has one window and as many KV heads for all layers, another no windows: scores mislead, the joint value
    decides."""
    recipe = recipe_of('kv(8Ki) <= 60%, serves("vllm")', "keep, swa(window=64), swa(window=256), drop, kv_heads(1)")
    facts = llama_facts(layers=12)

    def sizes(specs) -> tuple[set[int], set[int]]:
        mixers = [spec.mixer for spec in specs if spec.mixer is not None]
        return {mixer.kv_heads for mixer in mixers}, {mixer.window.size for mixer in mixers if mixer.window is not None}

    def one_window(specs) -> bool:
        heads, windows = sizes(specs)
        return len(heads) == 1 and len(windows) <= 1 and all(spec.mixer is not None for spec in specs)

    def no_windows(specs) -> bool:
        heads, windows = sizes(specs)
        return len(heads) == 1 and not windows

    forms = {"vllm": (one_window, no_windows)}
    case = Case(recipe, facts).measurable().unwrap()
    worth = {"swa(window=64)": 1.0, "swa(window=256)": 1.1, "drop": 1.2, "kv_heads(n=1)": 0.9}
    scores = {r: Measurement(worth[r.action] + 0.01 * r.layer, 0.1, Unit.NATS, 10, 2) for r in case.requests}
    problem = choice_of(Case(recipe, facts), scores, forms).unwrap()
    assert [set(plan.values()) for plan in families(problem)] == [{0, 1}, {0, 2}, {0, 3}, {4}]

    def measure(plans, part):
        return [Judged(Measurement(sum(abs(n - 2) for n in plan.values() if n), 0.1, Unit.NATS, 10, 2)) for plan in plans]

    assert set(search(problem, measure, tries=STARTS).best.values()) == {0, 2}


def test_an_engine_is_served_through_one_of_its_formats() -> None:
    recipe = recipe_of('kv(8Ki) <= 40%, serves("vllm")', "keep, swa(window=64), drop")
    facts = llama_facts(layers=4)
    scores = scores_of(recipe, facts, Random(1))

    def drops(specs) -> bool:
        return all(spec.mixer is None or spec.mixer.window is None for spec in specs) and specs[0].mixer is not None

    def windows(specs) -> bool:
        return all(spec.mixer is not None for spec in specs)

    problem = choice_of(Case(recipe, facts), scores, {"vllm": (drops, windows)}).unwrap()
    expected = every_plan(problem)
    assert [problem.sum(plan) for plan in islice(solutions(problem), 9)] == pytest.approx([v for v, _ in expected[:9]])
    selected = select(Case(recipe, facts), scores, forms=problem.forms).unwrap().specs
    assert drops(selected) or windows(selected)
    for none in ((), (lambda specs: specs[2].mixer is None and specs[2].mixer is not None,)):
        nothing = choice_of(Case(recipe, facts), scores, {"vllm": none}).unwrap()
        assert next(solutions(nothing), None) is None
        assert '`serves("vllm")` cannot be met: no format that it loads' in unmet(nothing).message


def test_an_alternative_that_no_format_has_is_named_and_not_the_cache() -> None:
    budgets = 'kv(8Ki) <= 40%, serves("vllm")'

    def form(specs) -> bool:
        windows = (spec.mixer.window for spec in specs if spec.mixer is not None)
        return all(spec.mixer is not None for spec in specs) and not any(w is not None and w.sink_tokens for w in windows)

    facts = llama_facts(layers=6)
    for among, named in (
        ("keep, swa(window=64, sinks=4)", ["swa(window=64, sinks=4)"]),
        ("keep, swa(window=64, sinks=4), drop, width(50%)", ["swa(window=64, sinks=4)", "drop"]),
        # It can have all of them, and what they save is too little.
        ("keep, kv_heads(1)", []),
    ):
        recipe = recipe_of(budgets, among)
        problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), {"vllm": (form,)}).unwrap()
        found = unmet(problem)
        assert found.code == "LB356"
        assert found.span is not None
        assert (found.span.text == 'serves("vllm")') is bool(named)
        assert [label.span.text for label in found.labels] == named
        assert all(f"`{text}`" in found.message for text in named)
        if named:
            assert found.help[0].startswith(
                'without `serves("vllm")` the others can be met; `kv(8Ki) <= 40%` cannot be met'
            )


@pytest.mark.parametrize("first", [True, False])
def test_the_nearest_to_a_budget_is_that_of_the_best_format(first: bool) -> None:
    """And not of the first, which may have none of what saves."""

    def none(specs) -> bool:
        return all(spec.mixer.window is None for spec in specs)

    recipe, facts = recipe_of('kv(8Ki) <= 0.5%, serves("vllm")', "keep, swa(window=64)"), llama_facts(layers=4)
    forms = {"vllm": (none, lambda specs: True) if first else (lambda specs: True, none)}
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, Random(0)), forms).unwrap()
    assert unmet(problem).message.endswith("the nearest is that `kv(8Ki)` is 0.8 % of the base model's")


@pytest.mark.parametrize("seed", range(6))
def test_many_pair_terms_are_solved_nearly(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(seed)
    recipe = recipe_of("kv(8Ki) <= 45%", "keep, swa(window=64), kv_heads(1), drop")
    facts = llama_facts(layers=5)
    problem = choice_of(Case(recipe, facts), scores_of(recipe, facts, random), {}).unwrap()
    # As a screen gives: products of effects.
    effects = {place: [random.gauss(0.1, 0.3) for _ in range(20)] for place in problem.places if place[1]}
    product_of = {
        (one, other): sum(a * b for a, b in zip(effects[one], effects[other], strict=True)) / 20
        for one in effects
        for other in effects
    }
    scores = {place: product_of[place, place] / 2 if place in effects else 0.0 for place in problem.places}
    pairs = {both: value for both, value in product_of.items() if both[0][0] < both[1][0]}
    problem = replace(problem, scores=scores, pairs=pairs)
    best = every_plan(problem)[0][0]
    monkeypatch.setattr(optimum, "EXACT_PAIRS", 10)
    found = list(solutions(problem))
    assert [problem.sum(plan) for plan in found] == sorted(problem.sum(plan) for plan in found)
    assert not any(problem.broken(plan) for plan in found)
    moves = problem.moves(found[0])
    assert {len(move) for move in moves} == {1, 2}
    for move, change in zip(moves, problem.changes(found[0], moves), strict=True):
        assert change == pytest.approx(problem.sum({**found[0], **move}) - problem.sum(found[0]), abs=1e-12)
    assert problem.sum(found[0]) <= best + 0.05 * abs(best) + 1e-9
