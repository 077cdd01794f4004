"""The model card says what others can know the base by, and nothing of the machine that made it."""

from __future__ import annotations

import pytest

from lbdsl.artifact.card import card_text
from lbdsl.artifact.record import Record, cautions_of
from lbdsl.core.digest import canonical_json
from lbdsl.export.card import export_card
from lbdsl.plan.schema import BARELY, AssertResult, Plan
from lbdsl.recipe.schema import Phase
from tests.plan_cases import plan_of, smollm2_facts

COMMIT = "0123456789" * 4


def record_of(plan: Plan, **model: object) -> Record:
    plan = plan.model_copy(update={"model": plan.model.model_copy(update=model)})
    return Record(
        lbdsl_version="0",
        status="accepted",
        plan_digest="0",
        plan=plan,
        layer_map=(),
        changes=(),
        no_heal=False,
        heal=None,
        evaluation=None,
        asserts=(),
        files={},
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of("layers 3 drop\nelse keep", smollm2_facts(), contexts=(32768,))


@pytest.mark.parametrize(
    ("source", "revision", "said"),
    [
        ("org/Tiny-1B", COMMIT, "org/Tiny-1B"),
        ("org/Tiny-1B@v1.0", COMMIT, "org/Tiny-1B"),
        ("/home/me/models/tiny", None, "Tiny-1B"),
        (f"/home/me/hub/models--org--Tiny-1B/snapshots/{COMMIT}", COMMIT, "Tiny-1B"),
    ],
)
def test_the_base_is_a_repository_or_a_name(plan: Plan, source: str, revision: str | None, said: str) -> None:
    record = record_of(plan, source=source, revision=revision, name="Tiny-1B")
    for text in (card_text(record), export_card(record, "decilm", "load it", in_transformers=False)):
        assert text.startswith(f"---\nbase_model: {said}\n")
        assert "/home/me" not in text
    assert (COMMIT in card_text(record)) == (revision is not None)


@pytest.mark.parametrize(
    ("heal", "said"),
    [
        (None, "Not healed."),
        ({"data": "a.txt", "tokens": 4096}, "Healed on 4096 tokens of `a.txt`."),
        ({"data": "a.txt", "tokens": 4096, "kept": 0}, "Healing was no gain on text apart, and is left out."),
    ],
)
def test_an_export_says_how_it_was_healed(plan: Plan, heal: dict[str, object] | None, said: str) -> None:
    record = record_of(plan).model_copy(update={"heal": heal})
    assert said in export_card(record, "decilm", "load it", in_transformers=False).splitlines()


def test_contexts_are_in_the_plans_order_also_after_a_plan_was_saved(plan: Plan) -> None:
    saved = Plan.model_validate_json(canonical_json(plan.model_dump(mode="json")))
    rows = [line for line in card_text(record_of(saved)).splitlines() if line.startswith("| cache of one")]
    assert [row.split()[6] for row in rows] == ["1Ki", "8Ki", "32Ki"]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((0.9, 0.48, 0.58, 0.3), "from 0.48 to 0.58: a lower `lr`"),
        ((0.4, 0.9), "from 0.4 to 0.9: a lower `lr`"),
        ((0.4, 0.41, 0.3), ""),
        ((), "no text of a.txt was left to watch healing on"),
    ],
)
def test_what_was_seen_of_healing_on_other_text_is_a_caution(plan: Plan, losses: tuple[float, ...], said: str) -> None:
    heal = {"curve": [], "data": "a.txt", "validation": [[100 * n, loss] for n, loss in enumerate(losses)]}
    found = cautions_of(record_of(plan).model_copy(update={"heal": heal}))
    assert len(found) == bool(said)
    assert all(said in caution for caution in found)


@pytest.mark.parametrize(("now", "cautions"), [(0.3, 1), (0.21, 0), (0.1, 0), (None, 0)])
def test_healing_that_made_a_text_worse_is_a_caution(plan: Plan, now: float | None, cautions: int) -> None:
    judged = {"data": "a.txt", "tokens": 9, "perplexity": {"base": 1.0, "artifact": 2.0}, "scores": {}, "loss_rise": now}
    judged["stderr"] = {"loss_rise": 0.01, "perplexity_base": 0.1, "perplexity_artifact": 0.2}
    judged["before_healing"] = {**judged, "loss_rise": 0.2}
    record = record_of(plan).model_copy(update={"evaluation": judged})
    found = [caution for caution in cautions_of(record) if "on a.txt" in caution]
    assert len(found) == cautions
    card = card_text(record)
    assert all(f"**Caution:** {caution}." in card for caution in found)
    assert "| perplexity | 1.00 ±0.10 | 2.00 ±0.20 | 2.00 ±0.20 |" in card


def test_asserts_that_their_error_leaves_open_are_counted(plan: Plan) -> None:
    one = AssertResult(text="recovery(needle(1Ki)) >= 90%", phase=Phase.POST, status="pass", value=0.95, error=0.1)
    card = card_text(record_of(plan).model_copy(update={"asserts": (one, one)}))
    assert "undecided" not in card
    barely = one.model_copy(update={"status": BARELY})
    card = card_text(
        record_of(plan).model_copy(update={"asserts": (one, barely, one.model_copy(update={"status": "undecided"}))})
    )
    assert f"- `assert {one.text}`: {BARELY}" in card
    assert "2 of 3 asserts undecided" in card
