"""Texts that say things and ask for them."""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import combinations, groupby, product
from typing import Any

import pytest
import torch

from lbdsl.core.diagnostic import LbdslError
from lbdsl.data import TextPart, read_parts
from lbdsl.data.recall import BEGINNING, KINDS, SENTENCE, TAIL, _Hay, _Maker, recall_blocks, recall_questions
from lbdsl.data.recall_words import HEALING, SCORING, Topic
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
    if length >= 4096:
        assert [len(of_one) for of_one in every] == [10, 6] * 5
        assert all({question.kind for question in of_one} == set(KINDS) for of_one in every)
        # Each text is read once: questions about it stand behind the same tokens.
        assert all(len(question.before) - len(shared(of_one)) < 160 for of_one in every for question in of_one)


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


def keys_in(question: str, kind: str) -> set[str]:
    """The words of a question that are keys."""
    return {key for topic in SCORING[kind] for key in topic.keys if re.search(rf"\b{key}\b", question)}


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
    """Of what it becomes with a key and a value."""
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
        assert min(quarters[quarter] for quarter in range(4)) >= 0.1 * len(far[whole])


def words_of(questions: tuple[Question, ...]) -> set[str]:
    """Keys, and answers that are words."""
    every = ((kind, *one) for _, asked in texts(questions) for kind, *one in asked if kind != "passage")
    found = {word for kind, question, answer in every for word in (answer.strip(), *keys_in(question, kind))}
    return {word for word in found if not word.isdigit()}


def sentences(text: str) -> set[str]:
    """The longer ones."""
    parts = (re.split(r"(?<=[.:;!?]) ", " ".join(block.split())) for block in re.split(r"\n\s*\n", text))
    return {sentence for part in parts for sentence in part if len(sentence) >= SENTENCE}


def hay_in(text: str) -> set[str]:
    """Sentences of the paragraphs of a text that state nothing; the first may be cut."""
    paragraphs = text.split("\n\n")[1:]
    plain = [one for one in paragraphs if not any(said_of(line, kind) for line in one.splitlines() for kind in KINDS)]
    return {sentence for one in plain for sentence in sentences(one)}


def hay_of(questions: tuple[Question, ...]) -> set[str]:
    return {sentence for text, _ in texts(questions) for sentence in hay_in(text)}


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


def test_no_two_texts_are_of_the_same_hay() -> None:
    seen: set[str] = set()
    for text, _ in texts(recall_questions(TextPart.SCORE, BYTES, 4096, 80)):
        hay = {paragraph for paragraph in text.split("\n\n")[1:] if sentences(paragraph) & hay_in(text)}
        assert len(hay) > 5
        assert not hay & seen
        seen |= hay


def strings(value: object) -> Iterator[str]:
    """Those in a constant, however they are nested."""
    if isinstance(value, str):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        yield from strings([getattr(value, field.name) for field in fields(value)])
    elif isinstance(value, Mapping):
        yield from strings([*value, *value.values()])
    elif isinstance(value, tuple | list | set | frozenset):
        for one in value:
            yield from strings(one)


def words_and_phrases(*given: object) -> tuple[set[str], set[str]]:
    """The words of keys and values in lower case; and phrases with gaps, by their words alone."""
    every = {one for value in given for one in strings(value)}
    lines = {line for one in every if re.search(r"{\w+}", one) for line in one.splitlines()}
    # A row of a table has none but "ordered".
    phrases = {line for line in lines if len(re.findall(r"\w\w+", re.sub(r"{\w+}", "", line))) > 1}
    words = {word.lower() for one in every if re.fullmatch(r"\w+( \w+)?", one) for word in one.split()} - {*KINDS}
    return words, {" ".join(re.findall(r"\w+", re.sub(r"{\w+}", "X", phrase).lower())) for phrase in phrases}


def test_needle_asks_for_nothing_that_recall_has_and_healing_for_nothing_that_measures() -> None:
    from lbdsl.data import needle

    of_needle = [value for name, value in vars(needle).items() if name.isupper() and name not in ("HAY", "KINDS")]
    found = {"needle": of_needle, "scoring": [*SCORING.values()], "healing": [*HEALING.values()]}
    every = {name: words_and_phrases(*value) for name, value in found.items()}
    assert "river" in every["needle"][0]
    assert any("secret number" in phrase for phrase in every["needle"][1])
    assert min(len(phrases) for name, (_, phrases) in every.items() if name != "needle") > 40
    for (words, phrases), (others, other_phrases) in combinations(every.values(), 2):
        assert not words & others
        # Not even as a part of another.
        pairs = product(phrases, other_phrases)
        assert not [pair for pair in pairs if f" {pair[0]} " in f" {pair[1]} " or f" {pair[1]} " in f" {pair[0]} "]


@pytest.mark.parametrize("topics", [SCORING, HEALING])
def test_each_kind_is_said_and_asked_in_several_phrases(topics: Mapping[str, tuple[Topic, ...]]) -> None:
    assert tuple(topics) == KINDS
    for kind, of_kind in topics.items():
        for topic in of_kind:
            assert len(set(topic.questions)) >= 3
            assert len(set(topic.statements)) >= 4 or kind == "passage"
            assert (len(set(topic.later)) >= 4) == (kind == "latest")
            assert len(topic.keys) == len(set(topic.keys))
            # A half of them is for each part: enough for all rows of the tables of a text.
            assert len(topic.keys) >= 40 or kind == "passage"


@pytest.mark.slow
def test_no_sentence_of_needles_hay_is_in_a_text_of_recall() -> None:
    from lbdsl.data.needle import HAY

    sources = {name for several in HAY for name in several}
    asked = {one for name in sources for text in read_parts(name).texts(TextPart.EVAL) for one in sentences(text)}
    assert len(asked) > 5000
    for part in (TextPart.SCORE, TextPart.JOINT):
        # More than builtin:pydoc has.
        assert not asked & hay_of(recall_questions(part, BYTES, 2**16, 80))
    healed = recall_blocks(BYTES, 2**18, 8192, 0, TextPart.HEAL)
    assert not asked & {one for ids in healed.ids.tolist() for one in sentences(decoded(ids))}


def test_too_short_a_length_is_an_error_that_says_what_fits() -> None:
    for make, least in (
        (lambda length: recall_questions(TextPart.SCORE, BYTES, length, 80), 512),
        (lambda length: recall_blocks(BYTES, 80 * length, length, 0, TextPart.HEAL), 256),
    ):
        with pytest.raises(LbdslError) as refused:
            make(100)
        (problem,) = refused.value.diagnostics
        assert problem.code == "LB446"
        assert "100 tokens" in problem.message
        fits = tokens_of(re.search(r"take (\S+) or more", problem.help[0])[1])
        assert fits >= least
        make(fits)


def tokens_of(said: str) -> int:
    return int(said.removesuffix("Ki")) * (1024 if said.endswith("Ki") else 1)


def with_start(start: str) -> Any:
    """A tokenizer that puts its own token before every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": start})
    number = tokenizer.convert_tokens_to_ids(start)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, number)])
    return tokenizer


def test_a_text_begins_with_the_tokenizers_own_token() -> None:
    tokenizer = with_start("<s>")
    for question in recall_questions(TextPart.SCORE, tokenizer, 2048, 20):
        assert question.before.count(tokenizer.bos_token_id) == 1
        assert question.before[0] == tokenizer.bos_token_id
        assert len(question.before) + len(question.answer) <= 2048
    blocks = recall_blocks(tokenizer, 4 * 2048, 2048, 0, TextPart.HEAL)
    assert blocks.ids.shape == (4, 2048)
    assert (blocks.ids == tokenizer.bos_token_id).sum(1).tolist() == [1] * 4


# To heal on ------------------------------------------------------------------------------------------------------------


def test_a_sequence_to_heal_on_ends_in_questions_with_their_answers() -> None:
    maker = _Maker(HEALING, _Hay(BYTES, TextPart.HEAL, 0, SOURCES), "0", answered=True)
    orders = set()
    for _ in range(10):
        made = maker.text(KINDS * 2, 4096, 1024)
        assert made is not None
        assert len(made.ids) == 4096
        assert Counter(kind for *_, kind in made.asked) == dict.fromkeys(KINDS, 2)
        whole, end = decoded(made.ids), "".join(f"{question}{answer}\n\n" for question, answer, _ in made.asked)
        assert whole.endswith(f"\n\n{end}")
        text = whole.removesuffix(end)
        places = []
        for question, answer, kind in made.asked:
            if kind == "passage":
                passage = question.rpartition("\n\n")[2] + answer
                assert f"\n\n{text}".count(f"\n\n{passage}\n\n") == 1
                places.append(text.index(passage))
                continue
            # The last line about what is asked says the answer, and no other text does.
            (key,) = {key for topic in HEALING[kind] for key in topic.keys if re.search(rf"\b{key}\b", question)}
            (place,) = (found.start() for found in re.finditer(rf"\b{answer.strip()}\b", text))
            assert key in text[text.rfind("\n", 0, place) + 1 : text.index("\n", place)]
            assert text.rindex(key) < place + 80
            places.append(place)
        assert max(places) <= len(text) - 1024
        orders.add(places == sorted(places))
    assert orders == {True, False}


def test_there_is_always_more_of_it_and_it_begins_alike() -> None:
    few, more = (recall_blocks(BYTES, rows * 2048, 2048, 3, TextPart.HEAL) for rows in (4, 60))
    assert more.ids.shape == (60, 2048)
    assert (more.passes, more.available, more.answers, more.data) == (1, None, None, "builtin:recall")
    assert torch.equal(more.ids[:4], few.ids)
    assert more.starts.nonzero().tolist() == [[row, 0] for row in range(60)]
    others = (
        recall_blocks(BYTES, 4 * 2048, 2048, 4, TextPart.HEAL),
        recall_blocks(BYTES, 4 * 2048, 2048, 3, TextPart.JOINT),
    )
    assert len({few.digest, more.digest, *(other.digest for other in others)}) == 4
    assert few.digest == recall_blocks(BYTES, 4 * 2048, 2048, 3, TextPart.HEAL).digest
    rows = [tuple(row) for blocks in (more, *others) for row in blocks.ids.tolist()]
    assert len(set(rows)) == len(rows) == 68
    # A mixture's share, of one sequence.
    assert recall_blocks(BYTES, 2048, 4096, 0, TextPart.HEAL).ids.shape == (1, 2048)


def test_it_never_runs_out_and_a_text_has_no_paragraph_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hay of few documents is read again, in another order."""
    from lbdsl.data import recall
    from lbdsl.data.split import split_documents

    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
    draw = random.Random(0)
    documents = ["\n\n".join(" ".join(draw.sample(words, 16)).capitalize() + "." for _ in range(40)) for _ in range(40)]
    monkeypatch.setattr(recall, "read_parts", lambda name: split_documents(documents if name == SOURCES[0] else []))
    found = [decoded(ids) for ids in recall_blocks(BYTES, 60 * 4096, 4096, 0, TextPart.HEAL).ids.tolist()]
    known = {one for text in documents for one in text.split("\n\n")}
    hay = [[one for one in text.split("\n\n") if one in known] for text in found]
    once = [set(of_one) for of_one in hay]
    assert len({frozenset(of_one) for of_one in once}) == 60
    assert sum(map(len, once)) > 1.5 * len(set().union(*once)) > 500
    # Only passages that are asked for stand there twice.
    assert max(len(of_one) - len(of_text) for of_one, of_text in zip(hay, once, strict=True)) <= 4
    with pytest.raises(LbdslError) as refused:
        recall_questions(TextPart.SCORE, BYTES, 2**17, 10)
    assert [problem.code for problem in refused.value.diagnostics] == ["LB446"]


@pytest.mark.parametrize("source", SOURCES)
def test_what_another_use_takes_is_left_out(source: str) -> None:
    """As another source's documents for healing are left out of what it is watched on."""
    parts = read_parts(source)
    used = frozenset((piece.document, piece.whole) for piece in parts.pieces[TextPart.JOINT])
    without = recall_blocks(BYTES, 8 * 8192, 8192, 0, TextPart.JOINT, exclude=used)
    taken = {one for text in parts.texts(TextPart.JOINT) for one in sentences(text)}
    other = {one for text in read_parts(*{*SOURCES} - {source}).texts(TextPart.JOINT) for one in sentences(text)}
    found = {one for ids in without.ids.tolist() for one in sentences(decoded(ids))}
    assert len(found & other) > 50
    # Long documents are cut alike for every use, and only whole ones can overlap.
    whole = {one for piece in parts.pieces[TextPart.JOINT] if piece.whole for one in sentences(piece.text)}
    assert taken & found <= taken - whole


@pytest.mark.slow
def test_a_small_model_finds_some_of_each_kind() -> None:
    """With the tokens of a real tokenizer, of which an answer mostly has those that stand in the text."""
    from lbdsl.session.model import OpenModel
    from tests.real_model import model_folder

    bench = OpenModel(model_folder())
    questions = recall_questions(TextPart.SCORE, bench.tokenizer, 1024, 80)
    assert [len(of_one) for of_one in by_text(questions)] == [10, 6] * 5
    assert max(len(question.before) + len(question.answer) for question in questions) == 1024
    copied, right = Counter[str](), Counter[str]()
    model = bench.base.eval()
    with torch.inference_mode():
        for of_one in by_text(questions):
            text = shared(of_one)[:-1]
            kept = model(input_ids=torch.tensor([text]), use_cache=True, logits_to_keep=1).past_key_values
            for question in of_one:
                behind = torch.tensor([[*question.before, *question.answer][len(text) :]])
                logits = model(input_ids=behind, past_key_values=copy.deepcopy(kept)).logits[0]
                found = logits[-len(question.answer) - 1 : -1].argmax(-1).tolist()
                right[question.kind] += found == question.answer
                width = len(question.answer)
                copied[question.kind] += any(question.answer == text[at : at + width] for at in range(len(text)))
    # Of 16 each. A value that begins a line has no space before it, and another first token.
    assert min(copied[kind] for kind in KINDS) >= 8
    assert min(right[kind] for kind in KINDS) >= 5
    blocks = recall_blocks(bench.tokenizer, 64 * 1024, 1024, 0, TextPart.HEAL)
    assert blocks.ids.shape == (64, 1024)
