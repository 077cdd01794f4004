"""Right answers about long texts, and what is left of them."""

import math
from dataclasses import replace

import pytest
import torch

from lbdsl.core.progress import progress_of
from lbdsl.measure.layer_source import LoadedModel
from tests.hybrid_cases import FULL, NONE, hybrid_of, swa, tiny_base

pytestmark = pytest.mark.torch

WINDOWED = swa(16, sinks=2)


class OnDisk(LoadedModel):
    """As a model whose layers are read from disk one after another."""

    in_memory = False


def chosen(model, before: list[int], count: int) -> list[int]:
    """What the model writes, greedily, without a cache."""
    ids = list(before)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(before) :]


def asked(texts: int = 3, length: int = 150) -> list[tuple[int, list[int]]]:
    """Questions about texts, four about each: the text's number, and the tokens before the answer."""
    made = torch.Generator().manual_seed(1)
    bodies = [torch.randint(1, 101, (length,), generator=made).tolist() for _ in range(texts)]
    return [
        (text, body + torch.randint(1, 101, (3 + number,), generator=made).tolist())
        for text, body in enumerate(bodies)
        for number in range(4)
    ]


def needle_test(questions, written=frozenset(), name: str = "needle(512)", depths: int = 0):
    from lbdsl.evaluate.needle import NeedleTest

    depth_of = [at % depths for at in range(len(questions))] if depths else ()
    return NeedleTest(name, tuple(questions), frozenset(written), "digest", 1024, 1, depth_of, depths)


@pytest.mark.parametrize("held", ["in memory", "streamed"])
@pytest.mark.parametrize("length", [150, 20], ids=["long texts", "short texts"])
def test_an_answer_is_right_if_greedy_decoding_gives_all_of_it(held: str, length: int, tmp_path) -> None:
    from lbdsl.data.records import Question

    base = tiny_base()
    same, other = hybrid_of(base, [FULL] * 4), hybrid_of(base, [FULL, FULL, FULL, WINDOWED])
    source = LoadedModel if held == "in memory" else OnDisk
    questions = [
        Question(before, chosen(base, before, 1 + at % 4), ("numbers", "words")[at % 2], text)
        for at, (text, before) in enumerate(asked(length=length))
    ]

    def answered(questions, written=range(0, 12, 3)):
        test = needle_test(questions, written, depths=4)
        return test.answered(source(same), source(other), progress_of(None))

    found = answered(questions)
    assert (found.base.value, found.base.tokens, found.base.sequences) == (1.0, 12, 3)
    wanted = [chosen(other, one.before, len(one.answer)) == one.answer for one in questions]
    assert found.artifact.value == sum(wanted) / 12 < 1
    assert sum(wanted) > 0
    assert found.recovery.value == found.artifact.value
    # Written or not, the answers are the same.
    for written in ((), range(12)):
        assert answered(questions, written).answers == found.answers
    assert {kind: (part.asked, part.artifact) for kind, part in found.kinds.items()} == {
        kind: (6, sum(right for right, one in zip(wanted, questions, strict=True) if one.kind == kind))
        for kind in ("numbers", "words")
    }
    assert {name: part.artifact for name, part in found.parts.items()} == {
        f"{(2 * depth + 1) / 8:.0%}": sum(wanted[depth::4]) for depth in range(4)
    }
    assert found.to_json()["kinds"]["words"]["base"] == 1.0
    # One wrong token makes an answer wrong, wherever it stands.
    for at, place in ((3, 0), (3, 3), (6, 1), (1, 1)):
        answer = list(questions[at].answer)
        answer[place] = (answer[place] + 1) % 101
        wrong = [replace(one, answer=answer) if number == at else one for number, one in enumerate(questions)]
        assert [one.base for one in answered(wrong).answers] == [4 - (at // 4 == text) for text in range(3)]
    none = answered([replace(one, answer=[0, 0]) for one in questions])
    assert none.base.value == 0
    assert math.isnan(none.recovery.value)
    assert found.name == "needle(512)"


def test_a_model_writes_answers_behind_the_cache_of_their_text() -> None:
    """The text is read once, and each layer's cache is of its own kind."""
    from lbdsl.data.records import Question

    base = tiny_base()
    model = hybrid_of(base, [FULL, WINDOWED, FULL, NONE])
    questions = [Question(before, chosen(model, before, 3), "words", text) for text, before in asked(texts=1)]
    read, run = [], model.model.run_layer

    def counted(layer, index, hidden_BND, inputs):
        read.append(hidden_BND.shape[0] * hidden_BND.shape[1] if index == 0 else 0)
        return run(layer, index, hidden_BND, inputs)

    model.model.run_layer = counted
    found = needle_test(questions, range(4)).answered(LoadedModel(model), None, progress_of(None))
    assert found.base.value == 1.0
    # The text, the questions as rows, and each question again with the tokens that are written.
    assert sum(read) < 150 + 4 * 12 + 4 * 12


def test_several_equally_likely_tokens_are_no_choice_of_a_model_that_writes() -> None:
    from lbdsl.data.records import Question

    model = hybrid_of(tiny_base(), [FULL] * 4)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    questions = [Question(before, [0], "words", text) for text, before in asked()]
    for written in ((), range(12)):
        assert needle_test(questions, written).answered(LoadedModel(model), None, progress_of(None)).base.value == 0


def test_questions_about_one_text_have_an_error_of_their_own() -> None:
    from lbdsl.data.records import Question
    from lbdsl.evaluate.needle import NeedleTest
    from lbdsl.recipe.schema_blocks import OwnQuestions

    model = hybrid_of(tiny_base(), [FULL] * 4)
    asking = [Question(before, [at], "mine.jsonl", text) for at, (text, before) in enumerate(asked(texts=1))]
    test = NeedleTest.own(OwnQuestions(file="mine.jsonl"), tuple(asking), 1024)
    found = test.answered(LoadedModel(model), None, progress_of(None))
    assert (found.name, found.base.sequences, found.kinds, found.parts) == ('needle("mine.jsonl")', 4, {}, {})
    assert test.written == {0}


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
