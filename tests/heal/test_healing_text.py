"""Documents that do not see each other, and tokens that do not count."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lbdsl.core.diagnostic import LbdslError
from lbdsl.data.blocks import TokenBlocks
from lbdsl.heal.objectives import Distill, Match
from lbdsl.heal.teacher import LoadedTeacher
from lbdsl.heal.text import HealingText, positions_of
from lbdsl.recipe.schema_blocks import HealSettings
from tests.heal.test_heal import HEAL, blocks, mean_kl, run, tiny
from tests.heal.test_stages import ROWS, cached, windowed

IDS = blocks()[:2]
STARTS = torch.zeros(2, 16, dtype=torch.bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[0, 6] = STARTS[1, 12] = True
ANSWERS = torch.zeros(2, 16, dtype=torch.bool)
ANSWERS[0, 3:5] = ANSWERS[1, 0:2] = ANSWERS[1, 15] = True


def text(documents: str = "joined", loss_on: str = "all", answers: torch.Tensor | None = ANSWERS) -> HealingText:
    found = TokenBlocks(IDS, "", "a.jsonl", 1, None, STARTS, answers)
    return HealingText.of(found, HealSettings(documents=documents, loss_on=loss_on))


def test_positions_restart_at_each_document() -> None:
    assert positions_of(STARTS)[0].tolist() == [0, 1, 2, 3, 4, 0, *range(10)]
    assert text().positions_SN is None
    assert torch.equal(text("apart").positions_SN, positions_of(STARTS))


def test_what_an_assistant_wrote_is_predicted_by_the_token_before_it() -> None:
    counts = text(loss_on="assistant").counts_SN
    assert [index.tolist() for index in counts.nonzero()] == [[0, 2], [0, 3], [1, 0], [1, 14]]
    for answers in (None, torch.zeros_like(ANSWERS)):
        with pytest.raises(LbdslError) as caught:
            text(loss_on="assistant", answers=answers)
        assert [d.code for d in caught.value.diagnostics] == ["LB455"]


def test_a_document_apart_is_as_if_alone(tmp_path) -> None:
    teacher = tiny()
    student = windowed(teacher)
    places = positions_of(STARTS)
    loss = Distill(student, LoadedTeacher(teacher), 2, 1.0, 0.0)(IDS, ROWS, places)
    alone = 0.0
    for row, cuts in ((0, (0, 5, 6, 16)), (1, (0, 12, 16))):
        for start, end in pairwise(cuts):
            alone += mean_kl(teacher, student, IDS[row : row + 1, start:end]) * (end - start)
    assert loss.item() == pytest.approx(alone / 32, rel=1e-4)
    assert loss.item() != pytest.approx(mean_kl(teacher, student, IDS), rel=1e-3)
    by_cache = cached(teacher, IDS, tmp_path, positions=places)
    assert Distill(student, by_cache, 2, 1.0, 0.0)(IDS, ROWS, places).item() == pytest.approx(loss.item(), rel=1e-6)


def test_the_loss_is_over_the_tokens_that_count() -> None:
    teacher = tiny()
    student = windowed(teacher)
    counts = text(loss_on="assistant").counts_SN
    loss = Distill(student, LoadedTeacher(teacher), 2, 1.0, 0.0)(IDS, ROWS, None, counts)
    with torch.no_grad():
        base, changed = (model(input_ids=IDS).logits.double().log_softmax(-1) for model in (teacher, student))
    each = (base.exp() * (base - changed)).sum(-1)
    assert loss.item() == pytest.approx(each[counts].mean().item(), rel=1e-5)
    nothing = torch.zeros_like(counts)
    for objective in (
        Distill(student, LoadedTeacher(teacher), 2, 1.0, 0.1),
        Match(student, LoadedTeacher(teacher), (range(2, 3),)),
    ):
        assert objective(IDS, ROWS, None, nothing).item() == 0


def test_healing_on_chats_apart(tmp_path) -> None:
    heal = HEAL.model_copy(update={"tokens": 2 * 16 * 6})
    ids = blocks(heal)
    starts, answers = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    starts[:, 0] = starts[:, 9] = True
    answers[:, 4:8] = True
    given = TokenBlocks(ids, "", "a", 1, None, starts, answers)
    chosen = HealSettings(documents="apart", loss_on="assistant")
    _, report = run(tiny(), windowed(tiny()), tmp_path, heal, text=HealingText.of(given, chosen))
    assert report.curve[-1][1] < report.curve[0][1]
