"""Facts hidden in a long text, and questions about them at its end.

Source: RULER, Hsieh et al. (arXiv 2404.06654), the variant with several keys and several questions; values that change
are its variable tracking, made plain.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.digest import digest_of
from lbdsl.core.units import tokens_text
from lbdsl.data.blocks import TokenBlocks, pack
from lbdsl.data.chat import token_ids
from lbdsl.data.records import Question, split_answer
from lbdsl.data.sources import read_parts
from lbdsl.data.split import TextPart
from lbdsl.recipe.schema_blocks import task_name

HAY = (("builtin:wikitext",), ("builtin:wikitext", "builtin:docs"))
"""The sources of the hay, of each its part for evaluation, which no model is healed on. The first has enough for eight
texts of 4Ki tokens, and is the same everywhere. (The topics of builtin:pydoc repeat each other, and so what is healed on;
docstrings do so less.)"""

VERSION = 3
"""Part of the digest: answers of another hay or of other facts, or that were judged by another rule, are not compared."""

KINDS = ("numbers", "words", "changed")
"""A number; a word that the model knows; a number that was another one before."""

DEPTHS = 9
"""The most facts in a text: as many of each kind."""

ROOM = 112
"""Tokens of a text for each of its facts, at least: a fact takes about 20, one that changed twice as many."""


def _words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


# What `recall` has (lbdsl/data/recall.py), by which layers are chosen and healed, has no form, key or value of these.
KEYS = _words(
    "river garden window castle bridge forest mirror engine ladder basket candle hammer island market needle orange "
    "pencil rabbit saddle temple tunnel valley violin wallet winter anchor bottle button camera desert feather helmet"
)
NAMES = _words("Arthur Beatrice Clara Dennis Edith Felix Gloria Hugo Irene Jasper Leonard Mabel Nora Oscar Phoebe Walter")
PLACES = _words("Athens Bergen Cairo Dublin Geneva Havana Kyoto Lima Lisbon Madrid Naples Oslo Prague Quebec Seoul Vienna")
# None that comes to mind first: without the text it would be right by chance.
COLOURS = _words("amber beige bronze coral crimson indigo ivory lavender lime maroon olive pink purple scarlet silver teal")


@dataclass(frozen=True)
class Form:
    """How a fact is worded. Of several statements, each with another value, the last one counts."""

    kind: str
    states: tuple[str, ...]
    asks: str
    values: Sequence[Any]


FORMS = (
    Form(
        "numbers",
        ("The secret number of the {key} is {value}.",),
        "The secret number of the {key} is",
        range(10_000, 100_000),
    ),
    Form("words", ("The keeper of the {key} is called {value}.",), "The keeper of the {key} is called", NAMES),
    Form("words", ("The {key} was bought in {value}.",), "The {key} was bought in", PLACES),
    Form("words", ("The {key} is painted {value}.",), "The {key} is painted", COLOURS),
    Form(
        "changed",
        (
            "The price of the {key} is {value} dollars.",
            "The price of the {key} has changed: it is now {value} dollars.",
        ),
        "The price of the {key} is now",
        range(100, 1000),
    ),
)


@dataclass(frozen=True, eq=False)
class Haystacks:
    """Questions about texts that have `context` tokens with the longest of them, and how deep in its text each of their
    facts stands: in the middle of which of `depths` equal parts."""

    context: int
    questions: tuple[Question, ...]
    depth_of: tuple[int, ...]
    depths: int
    digest: str


def haystacks(tokenizer: Any, context: int, texts: int = 8, seed: int = 0) -> Haystacks:
    """`texts` texts of `context` tokens, no two of the same hay, with a fact in the middle of each of `DEPTHS` equal parts
    (fewer in a short one). Each kind has as many in each text; where there are fewer facts than kinds, they take turns.
    What changed was stated somewhere before. They depend on the tokenizer and the seed; where `builtin:wikitext` is not
    enough, on the installed packages. Raises LB446 where there is too little text."""
    draw = random.Random(seed)
    count = max(1, min(DEPTHS, context // ROOM))
    count -= count % len(KINDS) if count > len(KINDS) else 0
    hay_SN = _hay(tokenizer, context, texts, seed).ids.tolist()
    questions = [one for text, hay in enumerate(hay_SN) for one in _asked(hay, text, count, tokenizer, draw)]
    digest = digest_of([VERSION, [[one.before, one.answer, one.kind] for one in questions]])
    return Haystacks(context, tuple(questions), tuple(range(count)) * texts, count, digest)


def _hay(tokenizer: Any, context: int, texts: int, seed: int) -> TokenBlocks:
    for sources in HAY:
        found = [text for source in sources for text in read_parts(source).texts(TextPart.EVAL)]
        try:
            return pack(found, TextPart.EVAL, tokenizer, texts * context, context, seed)
        except LbdslError as problem:
            if problem.diagnostics[0].code != "LB446":
                raise
    available = sum(len(token_ids(tokenizer, text)) for text in found)
    said = f"{task_name(context)} takes {texts} texts, and the built-in text that is not healed on has {available} tokens"
    fits = available // context
    length = tokens_text(available // texts // 1024 * 1024)
    raise fail("LB446", said, help=f"write `needle_texts = {fits}`" if fits > 1 else f"ask at {length} or less")


def _asked(hay: list[int], text: int, count: int, tokenizer: Any, draw: random.Random) -> list[Question]:
    """The questions about one text, in the order of their facts."""
    keys = draw.sample(KEYS, count)
    # Each text begins with another kind, so that every depth has all of them.
    forms = [_form(KINDS[(depth + text) % len(KINDS)], depth // len(KINDS) + text) for depth in range(count)]
    values = {form: draw.sample(form.values, forms.count(form) * len(form.states)) for form in FORMS}
    placed: list[tuple[int, list[int]]] = []
    asked: list[tuple[list[int], list[int], str]] = []
    for depth, (key, form) in enumerate(zip(keys, forms, strict=True)):
        own = [values[form].pop() for _ in form.states]
        # In quarters of a part: the one that counts in the middle, the others a quarter into this part or one before it.
        places = [*sorted(4 * draw.randrange(depth + 1) + 1 for _ in own[1:]), 4 * depth + 2]
        placed += [
            (place, token_ids(tokenizer, f"\n{state.format(key=key, value=value)}\n"))
            for place, state, value in zip(places, form.states, own, strict=True)
        ]
        asked.append((*split_answer(tokenizer, f"\n{form.asks.format(key=key)}", f" {own[-1]}"), form.kind))
    longest = max(len(before) + len(answer) for before, answer, _ in asked)
    kept = len(hay) - longest - sum(len(fact) for _, fact in placed)
    ids: list[int] = []
    taken = 0
    for place, fact in sorted(placed, key=lambda item: item[0]):
        # A token that starts every text stays where it is.
        here = place * kept // (4 * count)
        ids += hay[taken:here] + fact
        taken = here
    ids += hay[taken:kept]
    return [Question(ids + before, answer, kind, text) for before, answer, kind in asked]


def _form(kind: str, turn: int) -> Form:
    forms = [form for form in FORMS if form.kind == kind]
    return forms[turn % len(forms)]
