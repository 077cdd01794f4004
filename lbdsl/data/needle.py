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

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.digest import digest_of
from lbdsl.core.units import tokens_text
from lbdsl.data.blocks import TokenBlocks, pack
from lbdsl.data.sources import read_parts
from lbdsl.data.split import TextPart
from lbdsl.recipe.schema_blocks import task_name

HAY = (("builtin:wikitext",), ("builtin:wikitext", "builtin:docs"))
"""The sources of the hay, of each its part for evaluation, which no model is healed on. The first has enough for eight
texts of 4Ki tokens, and is the same everywhere. (The topics of builtin:pydoc repeat each other, and so what is healed on;
docstrings do so less.)"""

VERSION = 2
"""Part of the digest: answers of another hay, or that were judged by another rule, are not compared."""

DEPTHS = 10
"""The most facts in a text."""

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


def haystacks(tokenizer: Any, context: int, texts: int = 8, seed: int = 0) -> Haystacks:
    """`texts` texts of `context` tokens, no two of the same hay, with a fact in the middle of each of `DEPTHS` equal parts
    (fewer in a short one), asked for in another order. They depend on the tokenizer and the seed; where `builtin:wikitext`
    is not enough, on the installed packages. Raises LB446 where there is too little text."""
    draw = random.Random(seed)
    made = [_with_needles(hay_N.tolist(), tokenizer, draw) for hay_N in _hay(tokenizer, context, texts, seed).ids]
    ids_SN = torch.tensor([ids for ids, _ in made])
    digest = digest_of([VERSION, hashlib.sha256(ids_SN.numpy().tobytes()).hexdigest()])
    return Haystacks(ids_SN, tuple(needles for _, needles in made), digest)


def _hay(tokenizer: Any, context: int, texts: int, seed: int) -> TokenBlocks:
    for sources in HAY:
        found = [text for source in sources for text in read_parts(source).texts(TextPart.EVAL)]
        try:
            return pack(found, TextPart.EVAL, tokenizer, texts * context, context, seed)
        except LbdslError as problem:
            if problem.diagnostics[0].code != "LB446":
                raise
    available = sum(len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in found)
    said = f"{task_name(context)} takes {texts} texts, and the built-in text that is not healed on has {available} tokens"
    fits = available // context
    help = (
        f"write `needle_texts = {fits}`" if fits > 1 else f"ask at {tokens_text(available // texts // 1024 * 1024)} or less"
    )
    raise fail("LB446", said, help=help)


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
