"""Texts that say things and ask for them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import groupby
from types import ModuleType
from typing import Any

import pytest
import torch

from lbdsl.core.diagnostic import LbdslError
from lbdsl.data import TextPart, read_parts
from lbdsl.data.recall import BEGINNING, KINDS, SENTENCE, TAIL, recall_blocks, recall_questions
from lbdsl.data.recall_words import HEALING, SCORING
from lbdsl.data.records import Question
from tests.tiny_model import byte_tokenizer

pytestmark = pytest.mark.torch

SOURCES = ("builtin:pydoc", "builtin:docs")
BYTES = byte_tokenizer()


def decoded(ids: list[int]) -> str:
    return BYTES.decode(ids, clean_up_tokenization_spaces=False)


def by_text(questions: tuple[Question, ...]) -> list[list[Question]]:
    found = [list(of_one) for _, of_one in groupby(questions, key=lambda question: question.text)]
    assert [of_one[0].text for of_one in found] == list(range(len(found))), "those of one text stand together"
    return found


def shared(questions: list[Question]) -> list[int]:
    """What they begin with, up to the last end of a paragraph."""
    ids = questions[0].before
    for question in questions:
        same = next((at for at, (a, b) in enumerate(zip(ids, question.before, strict=False)) if a != b), len(ids))
        ids = ids[:same]
    return ids


def texts(questions: tuple[Question, ...]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Each text, and the kind, question and answer of all that is asked about it."""
    for of_one in by_text(questions):
        wholes = [decoded(question.before) for question in of_one]
        text = decoded(shared(of_one)).rpartition("\n\n")[0] + "\n\n"
        assert all(whole.startswith(text) for whole in wholes)
        yield text, [(q.kind, whole[len(text) :], decoded(q.answer)) for q, whole in zip(of_one, wholes, strict=True)]


@pytest.mark.parametrize("length", [512, 1024, 4096, 8192])
def test_as_many_of_each_kind_in_texts_of_two_lengths(length: int) -> None:
    found = recall_questions(TextPart.SCORE, BYTES, length, 80)
    assert Counter(question.kind for question in found) == dict.fromkeys(KINDS, 16)
    assert len(KINDS) == len(set(KINDS)) >= 5
    every = by_text(found)
    for number, of_one in enumerate(every):
        longest = max(len(question.before) + len(question.answer) for question in of_one)
        assert longest == (length // 2 if number % 2 else length)
        assert len(shared(of_one)) >= longest - max(len(question.before) for question in of_one) or len(of_one) == 1
    sizes = [len(of_one) for of_one in every]
    assert sizes[::2] == [max(sizes)] * len(sizes[::2]) or max(sizes) < 5
    if length >= 4096:
        # About as many as fit in texts of 1Ki tokens of a larger tokenizer; each has all kinds.
        assert len(every) == 10
        assert all({question.kind for question in of_one} == set(KINDS) for of_one in every)


@pytest.mark.parametrize("questions", [1, 2, 7, 33, 200])
def test_any_number_of_questions(questions: int) -> None:
    found = recall_questions(TextPart.JOINT, BYTES, 4096, questions)
    assert len(found) == questions
    counts = Counter(question.kind for question in found)
    assert max(counts.values()) - min(counts[kind] for kind in KINDS) <= 1


def test_they_depend_on_part_length_and_seed_alone() -> None:
    first = recall_questions(TextPart.SCORE, BYTES, 4096, 20)
    assert recall_questions(TextPart.SCORE, BYTES, 4096, 20) == first
    others = [
        recall_questions(TextPart.JOINT, BYTES, 4096, 20),
        recall_questions(TextPart.SCORE, BYTES, 4096, 20, seed=1),
        recall_questions(TextPart.SCORE, BYTES, 4100, 20),
    ]
    assert all(not {tuple(q.before[:512]) for q in other} & {tuple(q.before[:512]) for q in first} for other in others)


def keys_in(question: str, kind: str) -> list[str]:
    """The words of a question that are keys."""
    return [key for topic in SCORING[kind] for key in topic.keys if re.search(rf"\b{key}\b", question)]


@pytest.mark.parametrize("part", [TextPart.SCORE, TextPart.JOINT])
def test_each_answer_is_what_the_text_says(part: TextPart) -> None:
    """By hand: the paragraph that says it has the key, the last one the answer, and no other has it."""
    changed = phrases = 0
    for text, asked in texts(recall_questions(part, BYTES, 4096, 80)):
        paragraphs = text.split("\n\n")
        for kind, question, answer in asked:
            if kind == "passage":
                begun = question.rpartition("\n\n")[2]
                assert len(re.findall(r"\w+", begun)) >= BEGINNING
                assert text.count(begun) == 1
                (whole,) = (one for one in paragraphs if begun in one)
                assert whole.startswith(begun + answer)
                assert len(answer.split()) == 3
                continue
            (key,) = keys_in(question, kind)
            value = answer.removeprefix(" ")
            lines = [line for line in text.splitlines() if re.search(rf"\b{key}\b", line) and said_of(line, kind)]
            assert re.search(rf"\b{value}\b", lines[-1])
            assert len(re.findall(rf"\b{value}\b", text)) == 1
            assert len(lines) == 1 if kind != "latest" else 2 <= len(lines) <= 3
            changed += kind == "latest"
            phrases += text.count(question.rpartition("\n")[2]) == 0
    assert changed == 16
    # Some are asked in the words of the statement, some in others.
    assert 10 < phrases < 54


def said_of(line: str, kind: str) -> bool:
    """Whether a line is one of the statements of a kind, or a row of its tables."""
    phrases = [one.splitlines()[-1] for topic in SCORING[kind] for one in (*topic.statements, *topic.later)]
    return any(re.fullmatch(pattern_of(phrase), line) for phrase in phrases)


def pattern_of(phrase: str) -> str:
    return re.escape(phrase).replace(r"\{key\}", r"[\w ]+").replace(r"\{value\}", r"\w+")


def test_facts_stand_from_about_a_window_to_the_whole_text_back() -> None:
    length = 8192
    far: dict[bool, list[float]] = {True: [], False: []}
    orders = set()
    for number, (text, asked) in enumerate(texts(recall_questions(TextPart.SCORE, BYTES, length, 160))):
        places = []
        for kind, question, answer in asked:
            begun = question.rpartition("\n\n")[2]
            place = text.index(begun) if kind == "passage" else text.index(answer.strip())
            places.append(place)
            far[number % 2 == 0].append((len(text) - place) / length)
        orders.add(places == sorted(places))
    assert orders == {True, False}
    for whole, most in ((True, 1.0), (False, 0.5)):
        assert min(far[whole]) > TAIL - 0.02
        assert max(far[whole]) > most - 0.05
        quarters = Counter(min(3, int(4 * (one - TAIL) / (most - TAIL))) for one in far[whole])
        assert min(quarters[quarter] for quarter in range(4)) >= 0.12 * len(far[whole])


def words_of(questions: tuple[Question, ...]) -> set[str]:
    """Keys, and answers that are words."""
    every = ((kind, *one) for _, asked in texts(questions) for kind, *one in asked if kind != "passage")
    found = {word for kind, question, answer in every for word in (answer.strip(), *keys_in(question, kind))}
    return {word for word in found if not word.isdigit()}


def sentences(text: str) -> set[str]:
    """The longer ones."""
    parts = (re.split(r"(?<=[.:;!?]) ", " ".join(block.split())) for block in re.split(r"\n\s*\n", text))
    return {sentence for part in parts for sentence in part if len(sentence) >= SENTENCE}


def hay_of(questions: tuple[Question, ...]) -> set[str]:
    """Sentences of the texts that are no statements; the first paragraph may be cut."""
    found = {one for text, _ in texts(questions) for one in sentences(text.partition("\n\n")[2])}
    return {one for one in found if not any(said_of(one, kind) for kind in KINDS)}


def test_parts_share_no_key_no_answer_and_no_hay() -> None:
    score, joint = (recall_questions(part, BYTES, 8192, 160) for part in (TextPart.SCORE, TextPart.JOINT))
    assert len(words_of(score)) > 40
    assert not words_of(score) & words_of(joint)
    for part, questions in (("score", score), ("joint", joint)):
        hay = hay_of(questions)
        assert len(hay) > 200
        assert hay <= {
            one for name in SOURCES for text in read_parts(name).texts(TextPart(part)) for one in sentences(text)
        }
        others = [other for other in TextPart if other.value != part]
        assert not hay & {
            one for other in others for text in read_parts(SOURCES[0]).texts(other) for one in sentences(text)
        }
    assert not hay_of(score) & hay_of(joint)
