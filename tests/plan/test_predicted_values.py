"""`latency`, `memory` and `throughput` in asserts and `until`: from a profile, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbdsl.cost.profile import Profile, calibrate_line
from lbdsl.plan.findings import static_findings
from lbdsl.plan.verify import staleness
from lbdsl.plan.words import value_text
from lbdsl.recipe.load import recipe_from_text
from lbdsl.solve.case import Case
from tests.plan_cases import plan_of, recipe_of, smollm2_facts

FACTS = smollm2_facts()
STEP = (1e-3, 2e-3, 0.0, 1e-3, 0.0, 0.0, 1e-11, 0.0)
PROFILES = {
    "transformers": Profile(
        "transformers",
        "5.16",
        {"dtype": "float32"},
        {"steps": (512, 4096), "memory": (512, 4096)},
        {"steps": {1: STEP, 8: STEP}, "memory": {0: (1e6, 1.0, 1.0, 0.0)}},
    ),
    "vllm": Profile(
        "vllm",
        "0.32",
        {"dtype": "bfloat16"},
        {"runs": (512, 1024), "written": (64, 256)},
        {"runs": {50: (0, 0, 0, 0, 1e-3, 1e-3, 0, 0, 1e-11)}},
    ),
}


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("latency(1Ki, 8) <= 90%", "pass"),
        ("latency(1Ki, 8) <= 60%", "fail"),
        ("latency(1Ki, 4) < 1", "pass"),
        ("memory(4Ki, 8) < 2GiB", "pass"),
        ("memory(4Ki, 8) > 100%", "fail"),
        ("throughput(1Ki, 256, 50) >= 120%", "pass"),
        ("throughput(1Ki, 256, 50) >= 200%", "fail"),
    ],
)
def test_asserts_hold_or_not(condition: str, status: str) -> None:
    found = plan_of(f"layers every 2 from 0 drop\nelse keep\nassert {condition}", FACTS, profiles=PROFILES)
    assert [item.status for item in found.asserts] == [status]
    assert found.profiles == PROFILES
    assert staleness(found, profiles=PROFILES) == ()
    other = {**PROFILES, "vllm": replace(PROFILES["vllm"], version="0.33")}
    assert [d.code for d in staleness(found, profiles=other)] == ["LB354"]
    # A profile that is not here any more makes no plan stale.
    assert staleness(found, profiles={}) == ()


def test_until_takes_as_many_layers_as_the_prediction_needs() -> None:
    found = plan_of("lowest by sensitivity until latency(1Ki, 1) <= 80% drop\nelse keep", FACTS, profiles=PROFILES)
    # A step is 91 ms and some for the cache: nine attentions of 2 ms are not quite a fifth of it.
    assert len(found.changed) == 10


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("latency(8Ki, 1) <= 90%", "beyond what the profile of transformers measured"),
        ("latency(16, 1) <= 90%", "beyond what the profile of transformers measured"),
        ("throughput(1Ki, 512, 50) > 1", "beyond what the profile of vllm measured"),
        ("latency(1Ki, 16) <= 90%", "beyond what the profile of transformers measured"),
        ("latency(1Ki, 1, engine=llamacpp) <= 90%", "there is none for this model and device"),
    ],
)
def test_nothing_is_guessed(condition: str, said: str) -> None:
    built = plan_of(f"layers 3 drop\nelse keep\nassert {condition}", FACTS, profiles=PROFILES)
    assert [item.status for item in built.asserts] == ["fail"]
    finding = next(finding for finding in built.findings if finding.code == "LB353")
    assert said in finding.message
    assert "lbdsl calibrate MODEL --engine" in finding.help[0]


def test_quantized_weights_are_not_predicted() -> None:
    built = plan_of('modules "*" quantize(bits=8)\nassert latency(1Ki, 1) <= 100%', FACTS, profiles=PROFILES)
    assert "not predicted for W8A16, groups of" in next(f.message for f in built.findings if f.code == "LB353")


def test_before_a_plan_is_made_nothing_is_known_of_profiles() -> None:
    recipe = recipe_of("layers 3 drop\nelse keep\nassert latency(1Ki, 1) <= 90%\nassert kv(1Ki) < 1%")
    assert [d.code for d in static_findings(Case(recipe, FACTS)) if d.is_error] == ["LB321"]


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("latency(1Ki, 1) <= 90", "LB107"),
        ("latency(1Ki) <= 90%", "LB104"),
        ("latency(1Ki, 1, engine=vllm) <= 90%", "LB105"),
        ("latency(1Ki, 1, engine=llamacpp(3)) <= 90%", "LB105"),
        ("latency(1Ki, 1, engine=llamacpp, engine=transformers) <= 90%", "LB104"),
        ("latency(1Ki, 0) <= 90%", "LB105"),
    ],
)
def test_what_cannot_be_meant_is_refused(condition: str, code: str) -> None:
    found = recipe_from_text(f"lbr 1\nlayers 3 drop\nelse keep\nassert {condition}\n", "r.lbr", {}).diagnostics
    assert [d.code for d in found if d.is_error] == [code]


def test_one_line_measures_all_that_is_asked_of_an_engine() -> None:
    asked = [("latency", (1024, 1)), ("memory", (4096, 8)), ("latency", (4096, 8))]
    assert calibrate_line("transformers", asked) == (
        "lbdsl calibrate MODEL --engine transformers --contexts 1024,4096 --batches 1,8"
    )


SPREAD = {"vllm": replace(PROFILES["vllm"], saved={"runs": (0.8, 1.1)}), "transformers": PROFILES["transformers"]}


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("throughput(1Ki, 256, 50) >= 120%", "pass"),
        ("throughput(1Ki, 256, 50) >= 130%", "fail"),
        ("throughput(1Ki, 256, 50) <= 135%", "fail"),
        ("130% <= throughput(1Ki, 256, 50)", "fail"),
        ("throughput(1Ki, 256, 50) + 0 >= 130%", "fail"),
    ],
)
def test_a_budget_holds_for_the_worse_end_of_what_may_be(condition: str, status: str) -> None:
    """15 of 60 sub-blocks, and their cache, are gone: 1.33 times as many tokens are predicted, if all is saved."""
    built = plan_of(f"layers every 2 from 0 drop\nelse keep\nassert {condition}", FACTS, profiles=SPREAD)
    (item,) = built.asserts
    assert item.status == status
    if "+" in condition:
        return
    share = item.value
    low, high = item.between
    assert low < share < high
    # What is saved of a run's time: eight tenths, all, and a tenth more.
    assert 1 - 1 / low == pytest.approx(0.8 * (1 - 1 / share))
    assert 1 - 1 / high == pytest.approx(1.1 * (1 - 1 / share))
    assert f"({100 * low:.4g} % to {100 * high:.4g} %)" in value_text(item)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("not throughput(1Ki, 256, 50) < 130%", "fail"),
        ("not throughput(1Ki, 256, 50) < 120%", "pass"),
        ("-throughput(1Ki, 256, 50) <= -1", "pass"),
        ("10000 - throughput(1Ki, 256, 50) >= 0", "pass"),
    ],
)
def test_the_worse_end_of_what_is_negated(condition: str, status: str) -> None:
    built = plan_of(f"layers every 2 from 0 drop\nelse keep\nassert {condition}", FACTS, profiles=SPREAD)
    assert [item.status for item in built.asserts] == [status]


def test_what_saves_nearly_all_has_ends_that_are_numbers() -> None:
    """More saved than there was is no time below none: half of the predicted time is taken."""
    profiles = {
        name: replace(profile, saved={"runs": (0.9, 1.3), "steps": (0.9, 1.3)}) for name, profile in PROFILES.items()
    }
    rules = "layers 0-27 drop(block)\nelse keep\nassert throughput(1Ki, 256, 50) >= 101% and latency(1Ki, 8) <= 99%"
    built = plan_of(rules, FACTS, profiles=profiles)
    assert [item.status for item in built.asserts] == ["pass"]
    low, high = built.asserts[0].between
    assert 0 < low < built.asserts[0].value < high <= 2.001 * built.asserts[0].value
    assert built.digest


WRONG = {"vllm": replace(SPREAD["vllm"], errors={"runs": 0.06}), "transformers": PROFILES["transformers"]}


def test_the_rest_is_as_far_off_as_the_fit() -> None:
    rules = "layers every 2 from 0 drop\nelse keep\nassert throughput(1Ki, 256, 50) >= 101%"
    sharp, wide = (plan_of(rules, FACTS, profiles=each).asserts[0].between for each in (SPREAD, WRONG))
    assert wide == pytest.approx((sharp[0] / 1.06, sharp[1] * 1.06))


@pytest.mark.parametrize("profiles", [SPREAD, WRONG])
def test_the_base_itself_has_no_spread(profiles) -> None:
    built = plan_of("else keep\nassert throughput(1Ki, 256, 50) >= 100%", FACTS, profiles=profiles)
    assert [(item.status, item.between) for item in built.asserts] == [("pass", None)]


@pytest.mark.large
def test_choose_keeps_the_worse_end() -> None:
    """More layers than where all that is predicted is saved."""
    rules = "choose for layers all among keep, drop minimizing kl subject to throughput(1Ki, 256, 50) >= 120%"
    all_saved, less, wrong = (len(plan_of(rules, FACTS, profiles=each).changed) for each in (PROFILES, SPREAD, WRONG))
    assert 0 < all_saved < less < wrong
