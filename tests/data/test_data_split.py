"""The split: parts never overlap, cover everything, and depend on the documents alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbdsl.data import TextPart, read_documents, split_documents
from lbdsl.data.split import document_hash


@pytest.mark.large
@given(
    st.lists(st.text(min_size=20, max_size=40), min_size=45, max_size=60, unique=True), st.randoms(use_true_random=False)
)
def test_parts_partition_the_distinct_documents(documents, order: random.Random):
    split = split_documents(documents)
    hashes = [document_hash(text) for texts in map(split.texts, TextPart) for text in texts]
    assert len(hashes) == len(set(hashes))
    assert set(hashes) == {document_hash(text) for text in documents if text.strip()}
    again = list({document_hash(text): text for text in documents}.values())
    order.shuffle(again)
    shuffled = split_documents(again)
    for part in TextPart:
        assert [document_hash(t) for t in shuffled.texts(part)] == [document_hash(t) for t in split.texts(part)]


@given(st.lists(st.integers(min_value=1, max_value=2000), min_size=30, max_size=200, unique=True))
def test_shares_are_right_within_a_document_or_two(lengths):
    split = split_documents(f"{n} ".ljust(n + 5, "x") for n in lengths)
    whole = sum(map(split.characters, TextPart))
    longest = max(lengths) + 5
    for part, share in {TextPart.SCORE: 0.1, TextPart.JOINT: 0.1, TextPart.HEAL: 0.6, TextPart.EVAL: 0.2}.items():
        assert abs(split.characters(part) - share * whole) <= 2.5 * longest


def test_shares_of_the_built_in_text():
    split = split_documents(read_documents("builtin:pydoc"))
    whole = sum(map(split.characters, TextPart))
    for part, share in {TextPart.SCORE: 0.1, TextPart.JOINT: 0.1, TextPart.HEAL: 0.6, TextPart.EVAL: 0.2}.items():
        assert abs(split.characters(part) / whole - share) < 0.05, (part, split.characters(part) / whole)


@given(st.integers(min_value=200, max_value=40_000), st.sampled_from(["\n\n", "\n", " "]))
def test_a_long_document_gives_one_stretch_to_each_part_with_gaps_between(words, end):
    text = "".join(f"{n}{end if n % 7 == 0 else ' '}" for n in range(words))
    split = split_documents([text])
    order = (TextPart.HEAL, TextPart.SCORE, TextPart.JOINT, TextPart.EVAL)
    stop = -1
    for part in order:
        (stretch,) = split.texts(part)
        start = text.index(stretch)
        assert start - stop > (0 if part is TextPart.HEAL else len(text) // 70)
        stop = start + len(stretch)
    assert stop == len(text)
    for part, share in {TextPart.SCORE: 0.1, TextPart.JOINT: 0.1, TextPart.HEAL: 0.6, TextPart.EVAL: 0.2}.items():
        assert abs(split.characters(part) / len(text) - share) < 0.08


def test_long_documents_among_short_ones_are_cut_alike_in_every_source():
    book = " ".join(f"word{n}" for n in range(5000))
    alone = split_documents([book])
    among = split_documents([book, *(f"short document {n}" for n in range(50))])
    for part in TextPart:
        assert alone.pieces[part][0] in among.pieces[part]
