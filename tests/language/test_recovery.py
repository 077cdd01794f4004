"""Every mistake of a file is reported in one run, at its line, and hardly anything follows from another mistake."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lbdsl.recipe.load import recipe_from_text

MISTAKES = [
    ("layres 5 drop", "LB001"),
    ("frobnicate everything", "LB001"),
    ("layers 4- keep", "LB009"),
    ("layers 0:4 keep", "LB010"),
    ("layers 0-3", "LB016"),
    ("layers 5 swa(window=512", "LB002"),
    ("where sensitivity < drop", "LB012"),
    ("lowest 30% sensitivity drop", "LB013"),
    ("heal { tokens == 3 }", "LB011"),
    ("layers 8 else", "LB015"),
    ("where sensitvity < 0.1 drop", "LB102"),
    ("layers 4 swa(windw=512)", "LB103"),
    ("where ppl_increase<5% drop", "LB108"),
    ("assert sensitivity < 0.1", "LB109"),
    ("layers 3 keep + drop", "LB204"),
    ("where a<0.1 ? drop", "LB008"),
    ('layers 3 keep because "half', "LB004"),
    ("layers 7-4 keep", "LB205"),
    ("let $unused = ", "LB008"),
    ("group @unused = 0-", "LB009"),
    ("heal { tokens = 3k, lr = 1 }", "LB011"),
    ("measure {\n  metric = nll\n  tokens = 8Ki", "LB002"),
    ("layers (0-3 keep", "LB002"),
    ("layers 3] keep", "LB003"),
    ("assert kv(32Ki <= 50%", "LB002"),
    ("where not drop", "LB012"),
    ("lowest six by nll drop", "LB008"),
    ("layers 0 1 2 drop", "LB008"),
    ("param $q int = 3", "LB008"),
    ("layers 0-3 keep else drop", "LB017"),
    ("layers 3 swaa(window=64)", "LB101"),
    ("assert kv <= 50%", "LB104"),
    ("eval tokens = 3", "LB018"),
    ("lowest 3 by drop", "LB012"),
    ("layers 0-3 exept 2 keep", "LB050"),
    ("layers 3 swa(window=4kb)", "LB007"),
    ("requires model.layer >= 3", "LB113"),
    ("lowest 120% by nll drop", "LB211"),
    ("layers $nowhere keep", "LB110"),
    ("layers @nowhere keep", "LB111"),
    ('layers 3 swa(window="512")', "LB106"),
    ("assert kv(32Ki) <= 10M tokens", "LB107"),
    ("where sensitivity drop", "LB123"),
    ('requires model.family matches ~"(a)\\1"', "LB122"),
    ("param $w: token = 64", "LB127"),
    ("layers 0-3 keep)", "LB003"),
    ("where nll < 0.1 && kl < 1 drop", "LB008"),
    ("let $big = 1 / 0", "LB121"),
    ("layers 12345678901234567890 keep", "LB006"),
    ('layers 3 keep because "a\\q"', "LB014"),
    ("where nll = 0.1 drop", "LB011"),
    ("// a comment", "LB008"),
    ("layers -3 keep", "LB010"),
    ("lowest 3 of rest by nll\n  swa(window=64)", "LB016"),
    ("layers 3\ndrop", "LB016"),
]
GOOD = [
    "layers 0-3 keep",
    "where nll < 0.1 and kl < 0.2 drop",
    "lowest 3 by nll drop",
    "# a comment",
    "layers first 2, last 1 keep",
    "assert kv(32Ki) <= 50%",
    "lowest 3 of rest by\n  kl(swa(window=64)) swa(window=64)",
    'layers every 4 from 1 swa(window=64,\n  sinks=4) because "why"',
    "",
    "requires model.layers >= 2",
    "layers $size keep",
    "layers @core keep",
    "where nll < $limit drop",
]
HEAD = "let $size = 3\ngroup @core = first 2\nlet $limit = 0.1\n"
OPEN = ("let $unused", "group @unused", "measure", "layers (0-3", "layers 5 swa(", "assert kv(32Ki <=")
"""Mistakes that only a statement's first word ends; what is no such word belongs to them."""

ONCE = ("heal", "measure", "eval")


def seeded(seed: int, count: int = 10) -> tuple[str, list[tuple[int, str]]]:
    """A recipe with `count` mistakes among good statements, and the line and code of each."""
    rng = random.Random(seed)
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        text, code = rng.choice(MISTAKES)
        word = text.split()[0]
        if (text, code) not in chosen and not (word in ONCE and any(text.startswith(word) for text, _ in chosen)):
            chosen.append((text, code))
    text, places = HEAD, []
    for mistake, code in chosen:
        for _ in range(rng.randint(0, 3)):
            text += rng.choice(GOOD) + "\n"
        places.append((text.count("\n") + 1, code))
        text += mistake + "\n"
        if mistake.startswith(OPEN):
            text += "layers 0-3 keep\n"
    for _ in range(rng.randint(0, 3)):
        text += rng.choice(GOOD) + "\n"
    return text + "else keep\n", places


def reported(text: str) -> list[tuple[int, str]]:
    errors = [d for d in recipe_from_text(text).diagnostics if d.is_error]
    return [(d.span.start_line_column[0] if d.span else 0, d.code) for d in errors]


@pytest.mark.parametrize(("mistake", "code"), MISTAKES)
def test_one_mistake_is_one_error_at_its_line(mistake: str, code: str) -> None:
    before = HEAD + "layers 0-3 keep\n"
    text = before + mistake + "\nlayers $size keep\nassert kv(1Ki) < 50%\nlayers @core keep\n"
    line = before.count("\n") + 1
    assert reported(text) == [(line, code)]


def test_ten_mistakes_are_ten_errors() -> None:
    """And hardly anything follows from them."""
    followed = 0
    for seed in range(50):
        text, places = seeded(seed)
        found = Counter(reported(text))
        cascades = found - Counter(places)
        assert not Counter(places) - found, text
        assert cascades.total() <= 1, (cascades, text)
        followed += cascades.total()
    assert followed <= 5


@pytest.mark.slow
def test_many_more_seeds() -> None:
    for seed in range(50, 2000):
        text, places = seeded(seed, 10)
        found = Counter(reported(text))
        assert not Counter(places) - found, text
        assert (found - Counter(places)).total() <= 1, text


def test_a_definition_that_does_not_parse_has_no_followers() -> None:
    assert reported("parm $w: tokens = 64\nelse swa(window=$w)\nassert nll < $v") == [(1, "LB001"), (3, "LB110")]
    assert reported("group @core = 0-\nlayers @core keep\nlayers @cor keep") == [(1, "LB009"), (3, "LB111")]
    assert reported("let $a == 3\nlayers $a keep") == [(1, "LB011")]
    assert reported("layers $w keep\nlayres 3 keep") == [(1, "LB110"), (2, "LB001")]


def test_an_open_bracket_ends_at_the_next_statement() -> None:
    assert reported("layers (0-3 keep\nlowest 3 by nll drop\nlayres 3 keep") == [(1, "LB002"), (3, "LB001")]
    assert reported("else swa(window=64\nfrobnicate everything") == [(1, "LB002"), (2, "LB001")]
    assert reported("layers (0-3,\nlowest 3 by nll) keep\nelse keep") == []
    assert reported("where kl(\nswa(window=64)\n) < 0.1 keep\nelse keep") == []
