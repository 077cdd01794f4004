"""Ranges that earlier rules claim, against sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lbdsl.recipe.rules import _add, _inside, _merged, _overlap, _without

RANGE = st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))
RANGES = st.lists(RANGE, max_size=8)


def numbers(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(st.lists(RANGES, max_size=6), RANGES)
def test_ranges_are_sets(parts: list[list[tuple[int, int]]], probe: list[tuple[int, int]]) -> None:
    known: list[tuple[int, int]] = []
    for part in parts:
        _add(known, _merged(part))
    assert known == _merged([item for part in parts for item in part])
    assert numbers(known) == set().union(*map(numbers, parts)) if parts else not known
    assert all(a[1] + 1 < b[0] for a, b in pairwise(known))
    asked = _merged(probe)
    assert _inside(asked, known) == (numbers(asked) <= numbers(known))
    assert _overlap(asked, known) == bool(numbers(asked) & numbers(known))
    assert numbers(_without(asked, known)) == numbers(asked) - numbers(known)
