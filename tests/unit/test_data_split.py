"""The split: parts never overlap, cover everything, and depend on the documents alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from lbdsl.data import Part, read_documents, split_documents
from lbdsl.data.split import document_hash


@given(st.lists(st.text(max_size=60), max_size=40), st.randoms(use_true_random=False))
def test_parts_partition_the_distinct_documents(documents, order: random.Random):
    split = split_documents(documents)
    hashes = [document_hash(text) for texts in split.parts.values() for text in texts]
    assert len(hashes) == len(set(hashes))
    assert set(hashes) == {document_hash(text) for text in documents if text.strip()}
    again = list({document_hash(text): text for text in documents}.values())
    order.shuffle(again)
    shuffled = split_documents(again)
    for part in Part:
        assert [document_hash(t) for t in shuffled.parts[part]] == [document_hash(t) for t in split.parts[part]]


@given(st.lists(st.integers(min_value=1, max_value=2000), min_size=30, max_size=200, unique=True))
def test_shares_are_right_within_a_document_or_two(lengths):
    split = split_documents(f"{n} ".ljust(n + 5, "x") for n in lengths)
    whole = sum(map(split.characters, Part))
    longest = max(lengths) + 5
    for part, share in {Part.SCORE: 2 / 15, Part.JOINT: 1 / 15, Part.HEAL: 9 / 15, Part.EVAL: 3 / 15}.items():
        assert abs(split.characters(part) - share * whole) <= 2.5 * longest


def test_shares_of_the_built_in_text():
    split = split_documents(read_documents("builtin:pydoc"))
    whole = sum(map(split.characters, Part))
    for part, share in {Part.SCORE: 2 / 15, Part.JOINT: 1 / 15, Part.HEAL: 9 / 15, Part.EVAL: 3 / 15}.items():
        assert abs(split.characters(part) / whole - share) < 0.05, (part, split.characters(part) / whole)
