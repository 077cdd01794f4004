"""Numbers and layers as text."""

from __future__ import annotations

import pytest

from lbdsl.core.units import layers_text


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([3], "layer 3"),
        ([1, 2], "layers 1-2"),
        ([6, 4, 5, 0], "layers 0, 4-6"),
        ({0, 2, 3, 5, 6, 7, 9}, "layers 0, 2-3, 5-7, 9"),
    ],
)
def test_layers_text(layers: list[int], text: str) -> None:
    assert layers_text(layers) == text
