"""Texts that say things and ask for them at their end: they measure how much a model recalls, and heal it on that.

Sources: the loss on answers alone, with a layer changed, names the layers that recall (arXiv 2606.27791). Several kinds of
facts, phrases and distances, because what chooses must be as wide as what is asked.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.units import tokens_text
from lbdsl.data.blocks import TokenBlocks, Used, ids_digest, row_starts, shuffled, unused
from lbdsl.data.chat import prefix_of, tokenized
from lbdsl.data.recall_words import HEALING, SCORING, Topic
from lbdsl.data.records import Question, split_answer
from lbdsl.data.sources import read_parts
from lbdsl.data.split import TextPart
from lbdsl.recipe.schema_blocks import RECALL, RECALL_HAY

KINDS = ("numbers", "words", "latest", "passage", "table")
"""Of facts: numbers and words under keys; several values of a key, of which the last counts; a passage of the text that
is begun again; rows of a table."""

VERSION = 1
"""Increase it when other texts are made."""

MOST, MOST_IN_HALF, MOST_TO_HEAL = 10, 6, 32
"""The most questions about a text, about one of half the length, and in one to heal on."""

FACTS = 0.5
"""The share of a text that facts take, about; to heal on, with their questions."""

TAIL = 1 / 4
"""The share of the whole length that lies behind all facts, where there is room: about a window, as lengths are chosen."""

ROWS, ASKED_ROWS = 4, 2
"""Of a table."""

AGAIN = 0.5
"""The share of questions that begin the statement again, where that ends in the value."""

NUMBERS = ((1000, 10_000), (1000, 10_000), (100_000, 1_000_000))
"""Two values in three have four digits, the others six."""

FOLLOWS = "\n\n"
"""Behind every paragraph, fact and answer."""

PIECE, PASSAGE = 300, 140
"""The most characters of a paragraph of hay, and of a passage that is asked for."""

SHORTEST, SENTENCE = 6, 40
"""The fewest words of a paragraph of hay, and characters of a sentence that no other part may have."""

LETTERS, PROSE = 0.75, 0.85
"""The least share of letters and spaces in hay, and in a passage that is asked for."""

BEGINNING, CONTINUED = 5, 3
"""Words of a passage that no other has, and of the answer that continues it."""

TRIES = 8
"""How often the facts of a text are drawn, where they are too long."""


_WORD, _NO_PROSE = re.compile(r"\w+"), re.compile(r"[|<>{}\[\]=_]|--")


class _Fact(NamedTuple):
    """What a text says, in this order, and what is asked: questions, and the answers that follow them letter for letter."""

    kind: str
    said: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]


class _Text(NamedTuple):
    """Its ids; questions, answers and their kinds, in the order in which they are asked."""

    ids: list[int]
    asked: tuple[tuple[str, str, str], ...]


def recall_questions(part: TextPart, tokenizer: Any, length: int, questions: int, seed: int = 0) -> tuple[Question, ...]:
    """Questions about texts that say the answers, of each of `KINDS` as many; those about one text one after another, in
    the order in which it says them or in another.

    Text and question have at most `length` tokens, for every second text half as many. `part`: SCORE or JOINT, which share
    no hay, no key and no word of an answer. They depend on the tokenizer, the arguments and the version of Python; where
    `builtin:pydoc` is not enough, on the installed packages. Raises LB446 for too short a length.
    """
    maker = _Maker(SCORING, _Hay(tokenizer, part, seed, *((name,) for name in RECALL_HAY)), f"{length} {seed}")
    size = maker.size()
    most = [
        max(1, min(most, int(FACTS * tokens / size.said))) for most, tokens in ((MOST, length), (MOST_IN_HALF, length // 2))
    ]
    found: list[Question] = []
    for number, (asked, tokens) in enumerate(_divided(questions, most, length)):
        kinds = [KINDS[(len(found) + place) % len(KINDS)] for place in range(asked)]
        text = maker.text(kinds, tokens, int(TAIL * length))
        if text is None:
            raise _too_short(f"texts of recall of {length} tokens, every second of {length // 2},", 2 * size.least)
        for question, answer, kind in text.asked:
            before, own = split_answer(tokenizer, question, answer)
            found.append(Question(text.ids + before, own, kind, number))
    return tuple(found)


def recall_blocks(
    tokenizer: Any, tokens: int, seq: int, seed: int, part: TextPart, *, exclude: Used = frozenset()
) -> TokenBlocks:
    """`tokens` tokens to heal on (HEAL) or to watch healing by (JOINT): each sequence of `seq` is a text that ends in
    questions with their answers. There is always more of it, and more of it begins alike. `exclude`: see `token_blocks`.
    Raises LB446 for too short sequences."""
    seq = min(seq, tokens)
    maker = _Maker(HEALING, _Hay(tokenizer, part, seed, RECALL_HAY, exclude=exclude), f"{seq} {seed}", True)
    size = maker.size()
    asked = max(1, min(MOST_TO_HEAL, int(FACTS * seq / (size.said + size.asked))))
    rows = []
    for number in range(tokens // seq):
        kinds = [KINDS[(number * asked + place) % len(KINDS)] for place in range(asked)]
        text = maker.text(kinds, seq, int(TAIL * seq))
        if text is None:
            raise _too_short(f"sequences of {seq} tokens of {RECALL}", size.least)
        rows.append(text.ids)
    ids_SN = torch.tensor(rows)
    digest = ids_digest(ids_SN, {"data": RECALL, "part": part.value, "seed": seed, "version": VERSION})
    return TokenBlocks(ids_SN, digest, RECALL, starts=row_starts(ids_SN))


def _too_short(what: str, least: int) -> LbdslError:
    fits = tokens_text(1 << least.bit_length())
    return fail("LB446", f"{what} have no room for a fact of each kind and its question", help=f"take {fits} or more")


def _divided(questions: int, most: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """How many questions each text has, and its tokens: the whole length and half of it by turns, the questions divided
    between them as `most` is."""
    pairs = -(-questions // sum(most))
    for place in range(pairs):
        asked = questions // pairs + (place < questions % pairs)
        half = round(asked * most[1] / sum(most))
        yield from ((part, tokens) for part, tokens in ((asked - half, length), (half, length // 2)) if part)


class _Size(NamedTuple):
    """Tokens of what is said for a question, and of the question and its answer, in the mean; of the longest of both."""

    said: float
    asked: float
    least: int


class _Maker:
    """Makes texts, one after another, of topics and hay. `answered`: the questions and answers stand at the end of each."""

    def __init__(self, topics: Mapping[str, tuple[Topic, ...]], hay: _Hay, seed: str, answered: bool = False):
        self.topics, self.part, self.tokenizer, self.hay, self.answered = topics, hay.part, hay.tokenizer, hay, answered
        self.draw = random.Random(f"{VERSION} {hay.part.value} {answered} {seed}")

    def size(self) -> _Size:
        """Of a sample."""
        draw = random.Random(0)
        facts = [fact for _ in range(TRIES) for fact in self._facts(KINDS * ASKED_ROWS, draw)]
        said = [sum(map(len, self._encoded([text + FOLLOWS for text in fact.said]))) for fact in facts]
        asked = [
            [len(ids) for ids in self._encoded([one + other + FOLLOWS for one, other in fact.asked])] for fact in facts
        ]
        questions = sum(map(len, asked))
        least = max(one + max(others) for one, others in zip(said, asked, strict=True))
        self.hay.restart()
        return _Size(sum(said) / questions, sum(map(sum, asked)) / questions, least)

    def text(self, kinds: Sequence[str], length: int, tail: int) -> _Text | None:
        """A text with a fact of each of these kinds, of `length` tokens with its longest question and the answer to it, or
        with all that stand in it. At least `tail` tokens lie behind all facts, if there is room. None where they do not
        fit."""
        for _ in range(TRIES):
            facts = self._facts(kinds, self.draw)
            order = [fact for fact in facts for _ in fact.said]
            self.draw.shuffle(order)
            left = {fact: iter(fact.said) for fact in facts}
            said = self._encoded([next(left[fact]) + FOLLOWS for fact in order])
            # In the order of the last that is said of each.
            last = list(dict.fromkeys(reversed(order)))[::-1]
            asked = [(question, answer, fact.kind) for fact in last for question, answer in fact.asked]
            if self.draw.random() < 0.5:
                self.draw.shuffle(asked)
            ends = self._encoded([question + answer + FOLLOWS * self.answered for question, answer, _ in asked])
            behind = [token for ids in ends for token in ids] if self.answered else []
            body = prefix_of(self.tokenizer)
            room = length - (len(behind) or max(map(len, ends))) - len(body) - sum(map(len, said))
            if room >= 0:
                keys = [_beginning(fact.said[0]) for fact in facts if fact.kind == "passage"]
                hay = self.hay.take(room, [*keys, *(answer for _, answer, kind in asked if kind != "passage")])
                return _Text(body + self._mixed(said, hay, max(0, room - tail)) + behind, tuple(asked))
        return None

    def _mixed(self, said: Sequence[list[int]], hay: Sequence[list[int]], front: int) -> list[int]:
        """Hay with what is said, in its order, before paragraphs at depths spread over its first `front` tokens; the one
        that is cut stands first, where that leaves room."""
        first = len(hay[0]) if hay and len(hay[0]) <= front else 0
        depths = [first + (place + self.draw.random()) * (front - first) / len(said) for place in range(len(said))]
        left = deque(zip(depths, said, strict=True))
        body: list[int] = []
        end = 0
        for piece in hay:
            end += len(piece)
            while left and left[0][0] < end:
                body += left.popleft()[1]
            body += piece
        return body + [token for _, ids in left for token in ids]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return tokenized(self.tokenizer, texts)

    def _facts(self, kinds: Sequence[str], draw: random.Random) -> list[_Fact]:
        """Facts of which no two share a key or a value. A table has the rows of several questions."""
        self.hay.begin()
        taken: set[str] = set()

        def new(words: Sequence[str]) -> str:
            # Every second word is that of the joint measurement, or of watching.
            own = words[1 if self.part is TextPart.JOINT else 0 :: 2]
            while (found := draw.choice(own) if words else str(draw.randrange(*draw.choice(NUMBERS)))) in taken:
                pass
            taken.add(found)
            return found

        def asked(topic: Topic, said: str, key: str, value: str) -> tuple[str, str]:
            again = said.partition("{value}")[0].rstrip()
            question = again if "{key}" in again and draw.random() < AGAIN else draw.choice(topic.questions)
            row = again.rpartition("\n")[2].format(key=key)
            return question.format(key=key, row=row), f" {value}"

        found = []
        rows = kinds.count("table")
        for kind in [kind for kind in kinds if kind != "table"] + ["table"] * -(-rows // ASKED_ROWS):
            topic = draw.choice(self.topics[kind])
            if kind == "passage":
                found.append(self._passage(draw.choice(topic.questions), draw))
            elif kind == "table":
                layout = draw.choice(topic.statements)
                head, _, row = layout.rpartition("\n")
                held = [(new(topic.keys), new(topic.values)) for _ in range(ROWS)]
                table = "\n".join([head, *(row.format(key=key, value=value) for key, value in held)])
                wanted = draw.sample(held, min(rows, ASKED_ROWS))
                rows -= len(wanted)
                found.append(_Fact(kind, (table,), tuple(asked(topic, layout, *one) for one in wanted)))
            else:
                phrases = [
                    draw.choice(topic.statements),
                    *draw.sample(topic.later, draw.choice((1, 2)) if topic.later else 0),
                ]
                key, values = new(topic.keys), [new(topic.values) for _ in phrases]
                said = [phrase.format(key=key, value=value) for phrase, value in zip(phrases, values, strict=True)]
                found.append(_Fact(kind, tuple(said), (asked(topic, phrases[-1], key, values[-1]),)))
        return found

    def _passage(self, question: str, draw: random.Random) -> _Fact:
        passage = self.hay.passage()
        words = [match.end() for match in re.finditer(r"\S+", passage)]
        known = draw.randrange(BEGINNING, BEGINNING + 3)
        begun, end = words[known - 1], None if self.answered else words[known + CONTINUED - 1]
        return _Fact("passage", (passage,), ((question + passage[:begun], passage[begun:end]),))


class _Piece(NamedTuple):
    text: str
    ids: list[int]
    key: str
    """Its words, for finding others in it."""


class _Hay:
    """Paragraphs of a part of sources, one document after the other, again in another order when all are read. A text has
    none twice. The sources of a group are read together, those of the next group after them. Raises LB446 for a text that
    is longer than all of them."""

    def __init__(self, tokenizer: Any, part: TextPart, seed: int, *groups: tuple[str, ...], exclude: Used = frozenset()):
        self.tokenizer, self.part, self.seed, self.groups, self.exclude = tokenizer, part, seed, groups, exclude
        self.texts: dict[tuple[str, ...], tuple[list[str], set[str]]] = {}
        self.restart()

    def restart(self) -> None:
        self.turn, self.stream, self.left = 0, self._read(), deque[_Piece]()
        self.begin()

    def begin(self) -> None:
        """Begin another text."""
        self.first, self.seen = self.turn, list[str]()

    def take(self, tokens: int, without: Sequence[str]) -> list[list[int]]:
        """The ids of paragraphs without these words, of so many tokens; the first is cut at its beginning."""
        found: list[list[int]] = []
        keys = [_key(text) for text in without]
        while tokens > 0:
            piece = self.left.popleft() if self.left else next(self.stream)
            if piece.key not in self.seen and not any(key in piece.key for key in keys):
                self.seen.append(piece.key)
                found.append(piece.ids)
                tokens -= len(piece.ids)
        return [found[-1][-tokens:], *found[:-1]] if found else []

    def passage(self) -> str:
        """The next paragraph that can be asked for by its beginning, which no other passage of this text has."""
        passed: list[_Piece] = []
        while True:
            piece = self.left.popleft() if self.left else next(self.stream)
            alike = any(_beginning(piece.text) in key or _beginning(key) in piece.key for key in self.seen)
            if not alike and len(piece.text) <= PASSAGE and _is_prose(piece.text):
                self.seen.append(piece.key)
                self.left.extendleft(reversed(passed))
                return piece.text
            passed.append(piece)

    def _read(self) -> Iterator[_Piece]:
        for self.turn in count():
            if self.turn > self.first + 1:
                names = " and ".join(name for group in self.groups for name in group)
                message = f"a text of recall is longer than the {self.part.noun} part of {names}"
                raise fail("LB446", message, help="take shorter texts")
            found: set[str] = set()
            for group in self.groups:
                texts, elsewhere = self._of(group)
                for text in shuffled(texts, self.seed, self.turn):
                    pieces = [
                        piece
                        for piece in dict.fromkeys(_paragraphs(text))
                        if piece not in found and elsewhere.isdisjoint(_sentences(piece))
                    ]
                    found.update(pieces)
                    if pieces:
                        ids = tokenized(self.tokenizer, [piece + FOLLOWS for piece in pieces])
                        yield from map(_Piece, pieces, ids, map(_key, pieces))

    def _of(self, group: tuple[str, ...]) -> tuple[list[str], set[str]]:
        """The texts of a group, and the sentences of its other parts, some of which its documents repeat."""
        if group not in self.texts:
            splits = [read_parts(name) for name in group]
            texts = [piece.text for split in splits for piece in unused(split.pieces[self.part], self.exclude)]
            others = (text for split in splits for part in TextPart if part is not self.part for text in split.texts(part))
            self.texts[group] = texts, {one for text in others for one in _sentences(text)}
        return self.texts[group]


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of words, each in one line, of whole sentences and at most PIECE characters."""
    for block in re.split(r"\n\s*\n", text):
        found = ""
        for sentence in (*_split(block), ""):
            if sentence and len(found) + len(sentence) < PIECE:
                found = f"{found} {sentence}".strip()
                continue
            if len(found) <= PIECE and len(found.split()) >= SHORTEST and _letters(found) >= LETTERS and "|" not in found:
                yield found
            found = sentence


def _split(text: str) -> list[str]:
    return re.split(r"(?<=[.:;!?]) ", " ".join(text.split()))


def _sentences(text: str) -> set[str]:
    """Those that are long enough to be known again."""
    return {sentence for block in re.split(r"\n\s*\n", text) for sentence in _split(block) if len(sentence) >= SENTENCE}


def _letters(text: str) -> float:
    """The share of letters and spaces."""
    return sum(one.isalpha() or one == " " for one in text) / len(text)


def _is_prose(text: str) -> bool:
    words = text.split()
    enough = len(words) >= BEGINNING + 2 + CONTINUED and all(map(_WORD.search, words)) and _letters(text) >= PROSE
    return enough and text[0].isupper() and not _NO_PROSE.search(text)


def _key(text: str) -> str:
    """The words of a text, to find it in others."""
    return " ".join(["", *_WORD.findall(text), ""])


def _beginning(text: str) -> str:
    return _key(" ".join(_WORD.findall(text)[:BEGINNING]))
