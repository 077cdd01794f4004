"""What a changed model loses of the answers to questions, worked out by hand."""

from __future__ import annotations

import math

import pytest

from lbdsl.data.records import Question
from lbdsl.measure.answers import Answered
from lbdsl.measure.recall import RecallQuestions


def question(number: int, kind: str, tokens: int, text: int) -> Question:
    return Question([10 + number, 20 + number], [30 + number] * tokens, kind, text)


ASKED = (
    question(0, "codes", 1, 0),
    question(1, "names", 4, 0),
    question(2, "names", 1, 1),
    question(3, "names", 1, 2),
    question(4, "dates", 3, 2),
)
"""One token of codes, six of names. The base finds no date."""
BASE = (1.0, 2.0, 1.0, 1.0, 9.0)
CHANGED = (1.4, 2.2, 1.1, 1.3, 99.0)
"""A code loses 0.4 nats a token, names 0.6 of six tokens, 0.1 a token."""


def answered(questions: RecallQuestions, losses: tuple[float, ...]) -> Answered:
    rows = questions.rows.row_of
    return Answered(
        dict(zip(rows, losses, strict=True)),
        {row: 3.0 * (one.kind == "dates") for row, one in zip(rows, ASKED, strict=True)},
    )


@pytest.fixture(scope="module")
def asked() -> RecallQuestions:
    return RecallQuestions.of(ASKED, positions=64)


def test_kinds_weigh_alike_and_in_a_kind_its_tokens(asked: RecallQuestions) -> None:
    base, changed = answered(asked, BASE), answered(asked, CHANGED)
    weights = asked.weights(base)
    # Half for each of two kinds; then a token of codes is all of its kind, one of names a sixth.
    by_hand = dict(zip(asked.rows.row_of, (1 / 2, 1 / 12, 1 / 12, 1 / 12), strict=False))
    assert weights == pytest.approx(by_hand, rel=1e-12)
    cost = asked.cost(base, changed)
    assert cost.value == pytest.approx((0.4 + 0.1) / 2, rel=1e-12)
    # Beyond their kind's rise: codes none; names 0.2 - 0.4 in text 0, 0.1 - 0.1 in 1, 0.3 - 0.1 in 2; of three texts.
    rests = [(0.0 - 0.2) / 12, 0.0, 0.2 / 12]
    assert cost.stderr == pytest.approx(math.sqrt(3 / 2 * sum(rest**2 for rest in rests)), rel=1e-9)
    assert asked.by_kind(base, changed)["names"].rise == pytest.approx(0.1, rel=1e-12)


def test_a_slope_has_the_same_weights(asked: RecallQuestions) -> None:
    """All rows are one group: the value is its slope, without an error."""
    assert [len(group) for group in asked.rows.groups] == [5]
    slope = asked.slope(answered(asked, BASE), [0.25])
    assert slope.value == 0.25
    assert math.isnan(slope.stderr)


def test_without_a_kind_that_the_base_finds_there_is_no_value(asked: RecallQuestions) -> None:
    lost = Answered(answered(asked, BASE).losses, dict.fromkeys(asked.rows.row_of, 1.0))
    assert asked.weights(lost) == {}
    assert math.isnan(asked.cost(lost, lost).value)
