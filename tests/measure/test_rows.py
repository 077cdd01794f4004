"""Answers behind a long question: the question is run once, and the numbers are those of whole rows."""

from __future__ import annotations

import pytest
import torch

from lbdsl.actions.drop import Drop
from lbdsl.actions.swa import SlidingWindow
from lbdsl.measure import branches
from lbdsl.measure.answers import first_choices
from lbdsl.measure.flow import Flow, push
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.rows import answer_rows, likelihoods
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load import load_base
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from tests.family_cases import each_family, family_base

SHARED = 150


@pytest.fixture(params=each_family())
def case(request, tmp_path):
    """A model of a family in memory and on disk, and changes: windows with sinks and without, no attention, no layer."""
    base = family_base(request.param)
    base.save_pretrained(tmp_path)
    source = resolve_source(str(tmp_path))
    facts = inspect_model(source, "float32").unwrap()
    loaded = LoadedModel(to_hybrid(load_base(source, dtype="float32", device="cpu")))
    actions = {
        0: SlidingWindow(window=8, sinks=2),
        1: Drop(),
        2: SlidingWindow(window=64, sinks=0),
        3: Drop(target="block"),
    }
    changes = {layer: actions[layer].alone(facts, layer)[layer] for layer in range(min(4, facts.layers))}
    return loaded, StreamedModel(tmp_path, facts, "cpu"), changes


def rows(answers: tuple[int, ...] = (3, 1, 6, 2)) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    question = torch.randint(3, 90, (SHARED,), generator=made).expand(len(answers), -1)
    return torch.cat([question, torch.randint(3, 90, (len(answers), max(answers)), generator=made)], dim=1)


@pytest.mark.parametrize("together", [branches.TOGETHER, 3 * SHARED], ids=["at once", "three at a time"])
def test_a_shared_beginning_gives_the_states_of_whole_rows(case, together: int, monkeypatch) -> None:
    monkeypatch.setattr(branches, "TOGETHER", together)
    loaded, streamed, changes = case
    ids_BN = rows()
    models = [changes, *({layer: change} for layer, change in changes.items())]
    whole, shared, on_disk = Flow(ids_BN, models), Flow(ids_BN, models, shared=SHARED), Flow(ids_BN, models, shared=SHARED)
    push(loaded, [whole])
    push(loaded, [shared])
    push(streamed, [on_disk])
    assert shared.base_BND.shape[1] == ids_BN.shape[1] - SHARED
    assert torch.equal(shared.behind, ids_BN[:, SHARED:])
    # Of a gated delta net, which computes in float32, a step is another sum than a chunk; experts behind it enlarge that:
    # 4e-4 in float32, and 3e-5 where all else is in float64.
    layers = str(streamed.hybrid.config.lbdsl)
    near = 5e-4 if "gated_delta_net" in layers and "'moe'" in layers else 1e-4
    for flow in (shared, on_disk):
        pairs = [(flow.base_BND, whole.base_BND), *zip(flow.changed, whole.changed, strict=True)]
        for state, of_whole in pairs:
            torch.testing.assert_close(state, of_whole[:, SHARED:], rtol=near, atol=near)
    # The windows do take something away.
    assert not torch.allclose(whole.changed[0], whole.base_BND, atol=1e-2)


def test_likelihoods_are_those_of_each_row_alone(case) -> None:
    loaded, _, _ = case
    made = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, 90, (count,), generator=made).tolist()

    long, short = tokens(SHARED + 1), tokens(9)
    pairs = [
        (long, tokens(2)),
        (long, tokens(5)),
        (long, tokens(1)),
        (short, tokens(3)),
        (short, tokens(1)),
        (tokens(40), [7]),
    ]
    asked = answer_rows(pairs, positions=1024)
    assert asked.cut == 0
    assert range(0, 3) in asked.groups
    # The long question counts once.
    assert asked.tokens == SHARED + (3 + 6 + 2) + (12 + 10) + 41
    told: list[float] = []
    run, ran = loaded.hybrid.model.run_layer, []

    def counted(layer, index, hidden_BND, inputs):
        ran.append(hidden_BND.shape[0] * hidden_BND.shape[1] if index == 0 else 0)
        return run(layer, index, hidden_BND, inputs)

    loaded.hybrid.model.run_layer = counted
    found = likelihoods(loaded, asked, told.append)
    del loaded.hybrid.model.run_layer
    # Rows of a group are filled up to the longest.
    assert sum(ran) == SHARED + 3 * 6 + 3 * 41
    for (before, answer), (likelihood, first) in zip(pairs, found, strict=True):
        logits = loaded.hybrid(torch.tensor([before + answer])).logits[0, len(before) - 1 : -1]
        logp = torch.log_softmax(logits.float(), -1)
        target = torch.tensor(answer)
        assert likelihood == pytest.approx(float(logp.gather(-1, target[:, None]).detach().sum()), abs=1e-3)
        assert first == bool((logp.argmax(-1) == target).all())
    assert told[-1] == 1.0


def test_questions_about_one_text_share_it() -> None:
    text, other = list(range(200)), list(range(300, 500))
    pairs = [([*text, 1], [2]), ([*text, 1], [3]), ([*text, 4, 5], [6]), ([*other, 7], [8]), ([*other, 9], [1])]
    asked = answer_rows(pairs, positions=1024)
    assert asked.groups == (range(0, 3), range(3, 5))
    assert asked.row_of == (0, 1, 2, 3, 4)
    # The last token that is shared is read by each row.
    assert asked.tokens == (199 + 3 + 3 + 4) + (199 + 3 + 3)
    # So many questions at once that what is behind the text stays small.
    many = [([*text, *range(number, number + 150)], [1]) for number in range(1000, 1030)]
    assert [len(group) for group in answer_rows(many, positions=2048).groups] == [28, 2]
    # A beginning of a few words is not a text.
    assert len(answer_rows([([*text[:100], 1], [2]), ([*text[:100], 3], [4])], positions=1024).groups) == 1
    few = [([*text[:140], *range(500, 900)], [1]), ([*text[:140], *range(900, 1300)], [1])]
    assert len(answer_rows(few, positions=2048).groups) == 2


def test_a_question_longer_than_the_positions_is_cut_and_said() -> None:
    long = list(range(200))
    asked = answer_rows([(long, [1, 2]), (long, [3]), ([5], [6])], positions=190)
    assert asked.cut == 2
    # Cut alike, so that it is still shared.
    assert len(asked.groups) == 2
    assert asked.ids_SN[0, :188].tolist() == asked.ids_SN[1, :188].tolist() == long[12:]


def test_no_token_is_first_among_equals() -> None:
    logp = torch.log_softmax(
        torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [2.0, 2.0, 0.0], [float("nan"), 0.0, 1.0]]), -1
    )
    assert first_choices(logp, torch.tensor([0, 0, 0, 2])).nan_to_num(-1).tolist() == [0, 1, 0, -1]
