"""Facts that are hidden in long texts."""

from itertools import pairwise

import pytest
import torch

from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("context", "facts"), [(512, 4), (2048, 10), (300, 2)])
def test_each_fact_is_said_once_and_asked_for_at_the_end(context: int, facts: int) -> None:
    from lbdsl.data.needle import TEXTS, haystacks

    tokenizer = byte_tokenizer()
    found = haystacks(tokenizer, context)
    assert found.ids_SN.shape == (TEXTS, context)
    assert found.depths == facts
    for ids_N, needles in zip(found.ids_SN, found.needles, strict=True):
        text = tokenizer.decode(ids_N)
        said = [line for line in text.splitlines() if line.startswith("The secret number of the")]
        assert len(said) == 2 * facts
        places = []
        for needle in needles:
            answer = tokenizer.decode(ids_N[needle.start : needle.stop])
            assert answer.strip().isdigit()
            first, second = (line for line in said if answer in line)
            assert first == second
            places.append(text.index(first))
        # In the order of their depths, an equal distance apart.
        assert places == sorted(places)
        apart = [b - a for a, b in pairwise(places)]
        assert max(apart) - min(apart) < 12
        assert needles[-1].stop <= context
        assert len({*places}) == facts
    # Asked in an order of their own.
    asked = [[needle.start for needle in needles] for needles in found.needles]
    assert any(starts != sorted(starts) for starts in asked)
    again, other = haystacks(tokenizer, context), haystacks(tokenizer, context, seed=1)
    assert torch.equal(again.ids_SN, found.ids_SN)
    assert (again.digest == found.digest, other.digest == found.digest) == (True, False)
