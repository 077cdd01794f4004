"""What the rules of a recipe can reach of a cost holds for every plan that scores can give."""

from __future__ import annotations

import random

import pytest

from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.cost.cost import model_cost
from lbdsl.language.tree import walk
from lbdsl.plan.findings import impossible_asserts
from lbdsl.plan.gates import assert_result
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import CostOf
from lbdsl.solve.case import Case
from lbdsl.solve.evaluate import World
from lbdsl.solve.reach import reach
from lbdsl.solve.select import select
from tests.plan_cases import llama_facts, windowed

FACTS = llama_facts(layers=6, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=256, positions=1024)
ACTIONS = "drop", "drop(mlp)", "swa(window=64)", "keep", "kv_heads(1)", "quantize(bits=8)", "swa(window=16) + drop(mlp)"
SETS = "layers 0-2 {}", "layers all except first 1 where nll < 0.5 {}", "where kl < 0.4 {}", 'modules "*.q_proj" {}'
RANKED = (
    "lowest 2 by nll {}",
    "highest 3 of rest by kl {}",
    "lowest of rest by nll until kv(1Ki) <= 60% {}",
    "lowest 50% of rest by kl {}",
)
COSTS = "kv(1Ki)", "flops(512)", "params", "weights"


def recipes(seed: int) -> str:
    of = random.Random(seed)
    rules = [of.choice(SETS + RANKED).format(of.choice(ACTIONS)) for _ in range(of.randint(1, 4))]
    if of.random() < 0.3:
        rules.append("choose for layers 1-4 among keep, swa(window=64), drop minimizing kl subject to kv(1Ki) <= 90%")
    bounds = [f"assert {of.choice(COSTS)} {of.choice(('<=', '<', '>=', '>'))} {of.randint(5, 100)}%" for _ in range(3)]
    bounds.append(f"assert {bounds[0][7:]} or {bounds[1][7:]}")
    return "\n".join([*rules, f"else {of.choice(ACTIONS)}", *bounds, *(f"assert {cost} > 0" for cost in COSTS)])


@pytest.mark.parametrize("block", range(2))
def test_no_plan_is_beyond_what_the_rules_reach(block):
    tried = refused = 0
    for seed in range(40 * block, 40 * (block + 1)):
        facts = FACTS if seed % 2 else windowed(FACTS, [None, 32, None, 0, 32, None])
        recipe = recipe_from_text(recipes(seed)).value
        case = None if recipe is None else Case(recipe, facts)
        if case is None or case.problems:
            continue
        found = {d.message.split("`")[1] for d in impossible_asserts(case)}
        reached = reach(case)
        assert reached is not None
        for again in range(6):
            of = random.Random(again)
            scores = {asked: Measurement(of.random(), 0.0, Unit.NATS, 1, 1) for asked in case.requests}
            selection = select(case, scores).value
            if selection is None:
                continue
            tried += 1
            cost = model_cost(facts, selection.specs)
            for assertion in case.recipe.asserts:
                result, _ = assert_result(assertion, World(facts, cost=cost))
                assert result.status == "fail" or f"assert {assertion.text}" not in found, (seed, assertion.text)
                for part in walk(assertion.expr):
                    if isinstance(part, CostOf):
                        ends = [reached.end(part, most=most).value(part.name, part.ctx or 0) for most in (False, True)]
                        assert ends[0] <= cost.value(part.name, part.ctx or 0) <= ends[1], (seed, part)
        refused += len(found)
    assert tried > 60
    assert refused > 10
