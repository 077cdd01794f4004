"""Every single-edit typo of the language's words, in a recipe that is otherwise right: the right word is named first."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from lbdsl.actions import actions
from lbdsl.core.nearest import distance, nearest
from lbdsl.language.words import keywords
from lbdsl.metrics import Of, metrics, metrics_of
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.settings import CHOICES, LOSSES, METHODS, SETTINGS

ALPHABET = "aeqxz"
NEIGHBOURS = {
    "a": "s",
    "b": "v",
    "c": "x",
    "d": "f",
    "e": "r",
    "f": "g",
    "g": "h",
    "h": "j",
    "i": "o",
    "j": "k",
    "k": "l",
    "l": "k",
    "m": "n",
    "n": "b",
    "o": "p",
    "p": "o",
    "q": "w",
    "r": "t",
    "s": "d",
    "t": "y",
    "u": "i",
    "v": "c",
    "w": "e",
    "x": "c",
    "y": "u",
    "z": "x",
    "_": "-",
}

KEYWORDS = {
    "lbr": "WORD 1",
    "recipe": 'WORD "x"',
    "requires": "WORD model.layers >= 2",
    "param": "WORD $w: tokens = 64",
    "let": "WORD $a = 1",
    "group": "WORD @a = 0-3",
    "include": 'WORD "x.lbr"',
    "sha256": 'include "x.lbr" WORD "00"',
    "measure": "WORD { seed = 1 }",
    "heal": "WORD { seed = 1 }",
    "eval": "WORD { tokens = 1k }",
    "assert": "WORD kv(1Ki) <= 50%",
    "else": "WORD keep",
    "where": "WORD nll < 0.1 keep",
    "layers": "WORD 0-3 keep",
    "modules": 'WORD "*.k_proj" drop',
    "lowest": "WORD 3 by nll drop",
    "highest": "WORD 3 by nll keep",
    "until": "lowest by nll WORD kv(1Ki) <= 50% drop",
    "of": "lowest 3 WORD rest by nll drop",
    "rest": "lowest 3 of WORD by nll drop",
    "by": "lowest 3 WORD nll drop",
    "in": 'requires model.family WORD ["llama"]',
    "matches": 'requires model.family WORD ~"l.*"',
    "because": 'else keep WORD "text"',
    "except": "layers 0-9 WORD 3 keep",
    "and": "where nll < 1 WORD kl < 1 keep",
    "or": "where nll < 1 WORD kl < 1 keep",
    "not": "where WORD nll < 1 keep",
    "all": "layers WORD keep",
    "first": "layers WORD 2 keep",
    "last": "layers WORD 2 keep",
    "middle": "layers WORD 2 keep",
    "every": "layers WORD 4 keep",
    "from": "layers every 4 WORD 1 keep",
    "stage": "heal { WORD match { tokens = 1k } }",
    "choose": "WORD for layers all among keep, drop minimizing kl subject to kv(8Ki) <= 50%",
    "for": "choose WORD layers all among keep, drop minimizing kl subject to kv(8Ki) <= 50%",
    "among": "choose for layers all WORD keep, drop minimizing kl subject to kv(8Ki) <= 50%",
    "minimizing": "choose for layers all among keep, drop WORD kl subject to kv(8Ki) <= 50%",
    "subject": "choose for layers all among keep, drop minimizing kl WORD to kv(8Ki) <= 50%",
    "to": "choose for layers all among keep, drop minimizing kl subject WORD kv(8Ki) <= 50%",
    "while": "lowest by nll WORD nll < 0.1 drop",
}


def contexts() -> Iterator[tuple[str, str, str]]:
    """(kind, word, a recipe with WORD in its place)."""
    for word, text in KEYWORDS.items():
        yield "keyword", word, text
    for name in ("sensitivity", *metrics_of(Of.LAYER)):
        yield "metric", name, "lowest 3 by WORD drop"
        yield "metric", name, "where WORD < 0.1 drop"
    for name, cls in actions().items():
        yield "action", name, f"layers 0-3 {cls.example.replace(name, 'WORD', 1)}"
        for field in cls.parameters():
            value = "64" if field != "target" else "mlp"
            yield "parameter", field, f"layers 0-3 {name}(WORD={value})"
    for field in ("rank", "alpha"):
        yield "parameter", field, "heal { method = lora(WORD=16) }"
    for block, rows in SETTINGS.items():
        for key in rows:
            yield "setting", key, f"{block} {{ WORD = 1 }}"
    for name in METHODS:
        yield "value", name, "heal { method = WORD }"
    for name in LOSSES:
        yield "value", name, "heal { loss = WORD }"
    for name in CHOICES["metrics"]:
        yield "value", name, "eval { metrics = [WORD] }"
    for name in ("kv", "flops"):
        yield "cost", name, "assert WORD(1Ki) <= 50%"
    for name in ("params", *metrics_of(Of.FINISHED)):
        yield "cost", name, "assert WORD < 50%"
    for name in ("layers", "family", "hidden", "kv_heads", "positions"):
        yield "fact", name, "requires model.WORD >= 2"
    for name in ("tokens", "bytes", "ratio", "float"):
        yield "type", name, "param $w: WORD = 64"


def typos(word: str) -> set[str]:
    """All words one slip away: a letter dropped, swapped with the next, replaced or added."""
    found = set()
    for index, char in enumerate(word):
        found.add(word[:index] + word[index + 1 :])
        if index + 1 < len(word):
            found.add(word[:index] + word[index + 1] + char + word[index + 2 :])
        for other in {NEIGHBOURS.get(char, "e"), "e", "x"}:
            found.add(word[:index] + other + word[index + 1 :])
        for other in {char, *ALPHABET}:
            found.add(word[:index] + other + word[index:])
    found |= {word + other for other in ALPHABET}
    return {typo for typo in found - {word} if re.fullmatch(r"[A-Za-z_]\w*", typo)}


WORDS = {
    *keywords(),
    *actions(),
    *metrics(),
    "sensitivity",
    *METHODS,
    *LOSSES,
    *CHOICES["metrics"],
    "kv",
    "flops",
    "params",
    *(key for rows in SETTINGS.values() for key in rows),
}


def named_first(text: str) -> tuple[bool, str | None]:
    """Whether the recipe has errors, and the word that the first of them proposes."""
    errors = [d for d in recipe_from_text(text).diagnostics if d.is_error]
    for d in errors:
        for line in d.help:
            found = re.match(r"did you mean `(?:model\.)?[$@]?(\w+)`", line)
            if found:
                return True, found[1]
    return bool(errors), None


def test_contexts_use_every_keyword() -> None:
    assert set(KEYWORDS) == keywords().keys()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("keyword", marks=pytest.mark.large),
        "metric",
        "action",
        "parameter",
        "setting",
        "value",
        "cost",
        "fact",
        "type",
    ],
)
def test_single_edit_typos_name_the_right_word(kind: str) -> None:
    right: Counter[bool] = Counter()
    wrong = []
    made = [(word, typo, text) for of, word, text in contexts() if of == kind for typo in sorted(typos(word) - WORDS)]
    # Evenly over all words; some two hundred say as much as all.
    for word, typo, text in made[:: max(3, len(made) // 200)]:
        broken, said = named_first(text.replace("WORD", typo))
        if broken:
            right[said == word] += 1
            if said != word:
                wrong.append(f"{typo}: {said}, not {word}")
    total = right.total()
    assert total > 30
    assert right[True] >= 0.9 * total, f"{right[True]} of {total}; {wrong[:40]}"


def test_nearest() -> None:
    assert nearest("sensitvity", ["nll", "sensitivity"]) == "sensitivity"
    assert nearest("sens", ["nll", "sensitivity"]) == "sensitivity"
    assert nearest("se", ["seq", "seed"]) == "seq"
    assert nearest("frobnicate", ["nll", "sensitivity"]) is None
    assert nearest("x" * 100_000, ["nll"]) is None
    assert nearest("Window", ["window"]) == "window"
    assert nearest("a", []) is None


def test_distances_of_one_slip_and_of_two() -> None:
    assert 0 < distance("Window", "window") < distance("wnidow", "window") == distance("windpw", "window") == 1
    assert distance("kproj", "k_proj") < distance("xindow", "window") < distance("wxxdow", "window") == 2
    assert distance("window", "quantize", 2.0) == math.inf
    assert distance("same", "same") == 0
