"""Facts hidden in a long text, and questions about them at its end.

Source: RULER, Hsieh et al. (arXiv 2404.06654), the variant with several keys and several questions.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lbdsl.data.blocks import token_blocks
from lbdsl.data.split import TextPart

HAY = "builtin:docs"
DEPTHS, TEXTS = 10, 8
"""The most facts in a text, and the number of texts."""

ROOM = 128
"""Tokens of a text for each of its facts, at least: a fact and its question take about 40."""

FACT, QUESTION = "\nThe secret number of the {word} is {number}.\n", "\nThe secret number of the {word} is"
WORDS = re.findall(
    r"\w+",
    "river garden window castle bridge forest mirror engine ladder basket candle hammer island market needle orange "
    "pencil rabbit saddle temple tunnel valley violin wallet winter anchor bottle button camera desert feather helmet",
)


@dataclass(frozen=True, eq=False)
class Haystacks:
    """Token ids [S, N], and where in each text the answers stand, by the depth of their facts from the beginning; as many
    in each."""

    ids_SN: Tensor
    needles: tuple[tuple[range, ...], ...]
    digest: str

    @property
    def depths(self) -> int:
        return len(self.needles[0])


def haystacks(tokenizer: Any, context: int, seed: int = 0) -> Haystacks:
    """`TEXTS` texts of `context` tokens, with a fact in the middle of each of `DEPTHS` equal parts (fewer in a short one),
    asked for in another order. They depend on the tokenizer, the seed and the installed packages."""
    draw = random.Random(seed)
    hay_SN = token_blocks(HAY, TextPart.HEAL, tokenizer, TEXTS * context, context, seed).ids
    made = [_with_needles(hay_N.tolist(), tokenizer, draw) for hay_N in hay_SN]
    ids_SN = torch.tensor([ids for ids, _ in made])
    digest = hashlib.sha256(ids_SN.numpy().tobytes()).hexdigest()
    return Haystacks(ids_SN, tuple(needles for _, needles in made), digest)


def _with_needles(hay: list[int], tokenizer: Any, draw: random.Random) -> tuple[list[int], tuple[range, ...]]:
    def encoded(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    count = max(1, min(DEPTHS, len(hay) // ROOM))
    words = draw.sample(WORDS, count)
    numbers = [draw.randrange(10_000, 100_000) for _ in words]
    facts = [encoded(FACT.format(word=word, number=number)) for word, number in zip(words, numbers, strict=True)]
    asked: list[int] = []
    answers: dict[int, tuple[int, int]] = {}
    for depth in draw.sample(range(count), count):
        question = QUESTION.format(word=words[depth])
        whole, start = encoded(f"{question} {numbers[depth]}"), encoded(question)
        # The tokens that the question does not decide: a tokenizer may join its end with the answer's beginning.
        same = next((at for at, (a, b) in enumerate(zip(whole, start, strict=False)) if a != b), len(start))
        answers[depth] = len(asked) + same, len(asked) + len(whole)
        asked += [*whole, *encoded(".")]
    kept = len(hay) - len(asked) - sum(map(len, facts))
    ids: list[int] = []
    for depth, fact in enumerate(facts):
        # Half a part before each fact; a token that starts every text stays where it is.
        ids += hay[(2 * depth - 1) * kept // (2 * count) if depth else 0 : (2 * depth + 1) * kept // (2 * count)] + fact
    ids += hay[(2 * count - 1) * kept // (2 * count) : kept]
    first = len(ids)
    return ids + asked, tuple(range(first + answers[at][0], first + answers[at][1]) for at in range(count))
