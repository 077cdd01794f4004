"""What applying a plan takes, by formulas that a run was held against."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbdsl.plan.estimate import estimate, head_layers, measuring_units, units
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.memory import healing_bytes
from lbdsl.solve.case import Case
from tests.plan_cases import joint_loss, plan_of, smollm2_facts

SMOL = smollm2_facts()
TEXT = """lowest 4 by sensitivity drop
else keep
heal { tokens = 40k; seq = 1Ki }
eval { data = ["builtin:wikitext", "builtin:pydoc"]; tokens = 8Ki; seq = 2Ki }
"""


def estimated(text: str, facts=SMOL, **more):
    from lbdsl.recipe.load import recipe_from_text

    plan = plan_of(text, facts, joint=joint_loss(0.1, base_nll=2.0, tokens=100))
    plan = plan.model_copy(update={"eval": with_lengths(Case(recipe_from_text(text).unwrap(), facts)).unwrap().recipe.eval})
    given = {"forward": 350.0, "healing": None, "passes": None, "room": 7, "memory": 8, "machine": 9, **more}
    return estimate(plan, **given)


def test_a_healed_plan_judges_twice_and_heals_at_a_quarter_of_the_forward_pace() -> None:
    found = estimated(TEXT)
    assert found.judge_seconds == pytest.approx(2 * 2 * 2 * 8192 / 350, abs=0.1)
    assert found.heal_seconds == pytest.approx(4 * 19 * 2048 / 350, abs=0.1)
    assert estimated(TEXT, healing=80.0).heal_seconds == pytest.approx(19 * 2048 / 80, abs=0.1)
    assert (found.disk_bytes, found.machine_bytes) == (7, 9)


def test_needles_and_tasks_are_read_by_both_models_once() -> None:
    asked = TEXT.replace("seq = 2Ki }", "seq = 2Ki; needle = [1Ki, 4Ki]; needle_texts = 5 }")
    read = 2 * (2 * 2 * 8192 + 5 * (1024 + 4096))
    assert estimated(asked).judge_seconds == pytest.approx(read / 350, abs=0.1)
    assert estimated(asked, asked=7000.0).judge_seconds == pytest.approx((read + 14_000) / 350, abs=0.1)


def test_what_was_never_run_here_has_no_time() -> None:
    found = estimated(TEXT, forward=None)
    assert (found.heal_seconds, found.judge_seconds) == (None, None)
    unhealed = estimated("layers 3 drop\nelse keep\n", forward=None)
    assert (unhealed.heal_seconds, unhealed.machine_bytes) == (0, None)


def test_memory_of_healing_smollm2() -> None:
    """A run with LoRA on 2 x 1,024 tokens in float32 held 4.6 GiB."""
    heal = plan_of(TEXT, SMOL, joint=joint_loss(0.1, base_nll=2.0, tokens=100)).heal
    assert healing_bytes(heal, replace(SMOL, dtype="float32")) / 2**30 == pytest.approx(4.6, rel=0.1)


def test_work_of_measuring() -> None:
    whole = SMOL.layers + head_layers(SMOL)
    assert units(SMOL, 10) == pytest.approx(10 * whole)
    # Every layer once: half of the layers on the average, and the head each time.
    work = measuring_units(SMOL, range(SMOL.layers), 1)
    assert work == pytest.approx(whole + sum(whole - layer for layer in range(SMOL.layers)))
