"""The share of a text that also stands in others."""

from __future__ import annotations

import pytest
import torch

from lbdsl.data.contamination import GRAM, shared

pytestmark = pytest.mark.torch


def text(seed: int, rows: int = 4, seq: int = 128) -> torch.Tensor:
    return torch.randint(0, 50_000, (rows, seq), generator=torch.Generator().manual_seed(seed))


def test_texts_that_share_nothing_and_everything() -> None:
    assert shared(text(1), [text(2), text(3)]) == 0
    assert shared(text(1), [text(2), text(1)]) == 1
    assert shared(text(1), []) == 0
    assert shared(text(1)[:, : GRAM - 1], [text(1)]) == 0


@pytest.mark.parametrize("length", [GRAM - 1, GRAM, 50])
def test_a_quotation_counts_where_it_is_long_enough(length: int) -> None:
    """Every run of GRAM tokens within it, wherever it stands in the other text."""
    judged, other = text(1), text(2)
    other[3, 20 : 20 + length] = judged[1, 70 : 70 + length]
    runs = judged.shape[0] * (judged.shape[1] - GRAM + 1)
    assert shared(judged, [other]) == pytest.approx(max(0, length - GRAM + 1) / runs)
    other[3, 20 + length // 2] += 1
    assert shared(judged, [other]) == pytest.approx(2 * max(0, length // 2 - GRAM + 1) / runs, abs=1 / runs)


def test_order_counts() -> None:
    assert shared(text(1), [text(1).flip(1)]) == 0
