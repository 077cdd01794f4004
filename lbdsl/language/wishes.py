"""Words that users of model compression may write and that the language does not have: what it has instead.

The words are in `wishes.toml` beside this file, which is read when the first unknown word is met.
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
    """By place, then by the words that have one answer, separated by spaces: the answer."""
    import tomllib  # most recipes have no word of another tool and need not wait for it

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
    """What to say of a word that the language does not have. `where` is an action, score, value, setting, choice, fact,
    parameter, statement or set."""
    word = name.lower().replace("-", "_")
    return _answers().get((where, word)) or _answers().get((_ANYWHERE, word))


def slip(name: str, choices: Iterable[str]) -> str | None:
    """The one choice that `name` is a slip of the keyboard for; a word with a meaning of its own is none."""
    known = any(word == name.lower() for _, word in _answers())
    return None if known else nearest.slip(name, choices)
