"""Right answers about long texts, and what is left of them."""

import math
from dataclasses import replace

import pytest
import torch

from tests.hybrid_cases import FULL, NONE, hybrid_of, tiny_base

pytestmark = pytest.mark.torch


def greedy(model, ids_N: torch.Tensor, needles) -> torch.Tensor:
    """The text with the model's own first choices as answers."""
    ids_N = ids_N.clone()
    for place in sorted(place for needle in needles for place in needle):
        with torch.no_grad():
            ids_N[place] = model(input_ids=ids_N[None, :place]).logits[0, -1].argmax()
    return ids_N


def test_an_answer_is_right_if_greedy_decoding_gives_all_of_it() -> None:
    from lbdsl.core.progress import progress_of
    from lbdsl.data.needle import Haystacks
    from lbdsl.evaluate.needle import NeedleTest
    from lbdsl.measure.layer_source import LoadedModel

    base = tiny_base()
    needles = ((range(40, 43), range(30, 32)), (range(33, 34), range(44, 47)))
    ids_SN = torch.randint(1, 101, (2, 48), generator=torch.Generator().manual_seed(1))
    right_SN = torch.stack([greedy(base, ids_N, of) for ids_N, of in zip(ids_SN, needles, strict=True)])
    same, other = hybrid_of(base, [FULL] * 4), hybrid_of(base, [FULL, NONE, FULL, NONE])

    def answered(ids_SN: torch.Tensor):
        test = NeedleTest(Haystacks(ids_SN, needles, "digest"))
        return test.answered(LoadedModel(same), LoadedModel(other), progress_of(None))

    found = answered(right_SN)
    assert (found.base.value, found.base.tokens) == (1.0, 4)
    wanted = [
        bool((greedy(other, ids_N, [needle]) == ids_N).all())
        for ids_N, of in zip(right_SN, needles, strict=True)
        for needle in of
    ]
    assert found.artifact.value == sum(wanted) / 4 < 1
    assert found.recovery.value == found.artifact.value
    # One wrong token of three makes an answer wrong; those behind it are asked given the text as it is.
    right_SN[1, 45] = (right_SN[1, 45] + 1) % 101
    assert [one.base for one in answered(right_SN).answers] == [2, 1]
    assert answered(right_SN).parts["75%"].base == 1
    none = answered(torch.zeros_like(right_SN))
    assert none.base.value == 0
    assert math.isnan(none.recovery.value)
    assert answered(ids_SN).name == "needle(48)"


def test_the_error_of_a_recovery_is_paired() -> None:
    from lbdsl.evaluate.tasks import Answers, TaskResult

    answers = tuple(Answers(10, right, right * 0.8) for right in (5, 10, 5, 10))
    found = TaskResult('task("a")', "acc", "", answers, {})
    assert (found.recovery.value, found.recovery.stderr) == (pytest.approx(0.8), pytest.approx(0, abs=1e-12))
    assert found.artifact.stderr > 0.05
    noisy = replace(found, answers=(*answers, Answers(10, 10, 5)))
    assert noisy.recovery.stderr > 0.01
    assert found.post_scores() == {"task": found.artifact, "recovery": found.recovery}
    assert found.to_json()["questions"] == 40
