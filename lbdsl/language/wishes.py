"""Words of other compression tools that the language does not have, each with what to write instead.

The words are in `wishes.toml` next to this file, which is read at the first unknown word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from lbdsl.core import nearest

_ANYWHERE = "anywhere"


@cache
def wishes() -> Mapping[str, Mapping[str, str]]:
    """Place -> words with the same answer, separated by spaces -> the answer."""
    import tomllib  # lazy: only needed after an unknown word

    places = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    phrases = places.pop("phrases")
    return {
        place: {words: re.sub(r"\{(\w+)\}", lambda name: phrases[name[1]], said) for words, said in rows.items()}
        for place, rows in places.items()
    }


@cache
def _answers() -> Mapping[tuple[str, str], str]:
    """The answer by place and single word."""
    return {
        (place, word): said for place, rows in wishes().items() for words, said in rows.items() for word in words.split()
    }


def wish(name: str, where: str) -> str | None:
    """The answer for a word that the language does not have; None if there is none. `where` is its place: action, score,
    value, setting, choice, fact, parameter, statement or set."""
    word = name.lower().replace("-", "_")
    return _answers().get((where, word)) or _answers().get((_ANYWHERE, word))


def slip(name: str, choices: Iterable[str]) -> str | None:
    """The only choice that `name` can be a typo of, else None; a word that has an answer is never a typo."""
    known = any(word == name.lower() for _, word in _answers())
    return None if known else nearest.slip(name, choices)
