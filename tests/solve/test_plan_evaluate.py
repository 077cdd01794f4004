"""Values of expressions: units, shares, chains, texts and patterns."""

from __future__ import annotations

import pytest

from lbdsl.core.span import Source
from lbdsl.core.units import Unit
from lbdsl.language.tree import Compare, Expr, Number, Operator, Pattern, String
from lbdsl.plan.schema import Loss
from lbdsl.solve.evaluate import World, evaluate
from tests.plan_cases import changed_cost, joint_loss, llama_facts, recipe_of, smollm2_facts

FACTS = smollm2_facts()
NOWHERE = Source("", "").span(0, 0)


def number(value: float) -> Number:
    return Number(NOWHERE, value, Unit.NONE, str(value))


def text(value: str) -> String:
    return String(NOWHERE, value)


def compared(left: Expr, op: str, right: Expr) -> Compare:
    return Compare(NOWHERE, (left, right), (Operator(NOWHERE, op),))


def of_model(condition: str, drops: int = 15, joint: Loss | None = None):
    """Whether `assert condition` holds when the first `drops` layers lose their attention."""
    recipe = recipe_of(f"layers first {drops} drop\nelse keep\nassert {condition}")
    actions = [recipe.rules[0].actions if i < drops else () for i in range(FACTS.layers)]
    world = World(FACTS, cost=changed_cost(FACTS, actions), joint=joint.values if joint is not None else {})
    return evaluate(recipe.asserts[0].expr, world)


@pytest.mark.parametrize(
    ("condition", "truth"),
    [
        ("kv(32Ki) <= 50%", True),
        ("kv(32Ki) < 50%", False),
        ("50% >= kv(32Ki)", True),
        ("kv(8Ki) <= 90MiB", True),
        ("kv(8Ki) < 90MiB", False),
        ("40% <= kv(8Ki) <= 50%", True),
        ("40% <= kv(8Ki) < 50%", False),
        ("params < 91%", True),
        ("params < 90%", False),
        ("params < 130M", True),
        ("flops(1Ki) < 82%", True),
        ("kv(1Ki) + kv(8Ki) <= 50%", True),
        ("kv(8Ki) / kv(1Ki) == 8", True),
        ("kv(8Ki) - kv(1Ki) < 80MiB", True),
        ("2 * kv(8Ki) <= 180MiB", True),
        ("not kv(8Ki) > 50%", True),
        ("kv(8Ki) > 60% or params < 95%", True),
        ("kv(8Ki) > 60% and params < 95%", False),
        ("-params < 0", True),
        ("params <= model.params * 50%", False),
        ("params <= 91% * model.params", True),
        ("kv(1Ki) <= 1Ki * model.kv_bytes_per_token * 25%", False),
        ("kv(1Ki) <= model.kv_bytes_per_token * 50% * 1Ki", True),
        ("kv(8Ki) == 4Ki * model.kv_bytes_per_token", True),
        ("kv(8Ki) <= 2 * 25%", True),
        ("kv(8Ki) < 25% * 2", False),
        ("kv(8Ki) <= model.layers * 1%", False),
    ],
)
def test_costs(condition, truth):
    assert of_model(condition).unwrap() is truth


@pytest.mark.parametrize(
    ("layers", "drops", "share"), [(40, 17, "57.5%"), (50, 21, "58%"), (100, 71, "29%"), (30, 20, "100% / 3")]
)
def test_a_share_of_so_many_layers_is_exact(layers, drops, share):
    facts = llama_facts(layers=layers)
    recipe = recipe_of(f"layers first {drops} drop\nelse keep\nassert kv(512) <= {share} and kv(512) >= {share}")
    after = changed_cost(facts, [recipe.rules[0].actions if i < drops else () for i in range(layers)])
    assert evaluate(recipe.asserts[0].expr, World(facts, cost=after)).unwrap() is True


def test_results_that_are_no_number():
    """250 factors of 30 make an integer that no float holds."""
    for condition in (f"{' * '.join(['model.layers'] * 250)} * 0.5 > 1", f"{' * '.join(['model.layers'] * 250)} / 7 > 1"):
        found = of_model(condition)
        assert found.value is None
        assert [(d.code, d.message) for d in found.diagnostics] == [("LB317", "result is too large")]


def test_joint_losses():
    loss = joint_loss(0.4, 0.3)
    assert of_model("nll < 0.5 and kl < 0.31", joint=loss).unwrap() is True
    assert of_model("nll < 0.4", joint=loss).unwrap() is False
    assert [d.code for d in of_model("nll < 0.4").diagnostics] == ["LB323"]


@pytest.mark.parametrize(
    ("condition", "truth"),
    [
        ('model.family in ["llama", "qwen3"]', True),
        ('model.family not in ["qwen3"]', True),
        ('model.family == "llama"', True),
        ('model.family matches ~"l+.*"', True),
        ('model.family matches ~"lla"', False),
        ("model.layers >= 24", True),
        ("model.layers in [28, 30]", True),
        ("20 < model.layers < 30", False),
    ],
)
def test_facts(condition, truth):
    recipe = recipe_of(f"requires {condition}\nelse keep")
    assert evaluate(recipe.requires[0].expr, World(FACTS)).unwrap() is truth


def test_patterns_are_linear_time():
    hard = compared(text("a" * 5000 + "!"), "matches", Pattern(NOWHERE, r"(\w+\.?)+$"))
    assert evaluate(hard, World(FACTS)).unwrap() is False
