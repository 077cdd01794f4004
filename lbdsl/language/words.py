"""The words of the language: one table for messages, highlighting, completion, hover, `explain` and docs; and words of
other compression tools that it does not have, each with what to write instead.

They are in `words.toml` and `wishes.toml` next to this file, which are read when meanings are needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lbdsl.core import nearest

BLOCKS = ("measure", "heal", "eval")
RULES = ("else", "where", "layers", "modules", "lowest", "highest", "choose")
OPERATORS = frozenset({"and", "or", "not", "in", "matches", "except"})


def ticked(names: Iterable[str], between: str = ", ") -> str:
    """`a`, `b`: names as messages list them."""
    return between.join(f"`{name}`" for name in names)


class Keyword(NamedTuple):
    """A reserved word; its terminal in the grammar is the word in upper case. `form` is the syntax of the statement that it
    begins, `snippet` the text that completion inserts."""

    meaning: str
    example: str
    form: str = ""
    snippet: str = ""


def _table(file: str) -> dict[str, Any]:
    import tomllib  # lazy: a recipe without errors does not need it

    return tomllib.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))


@cache
def keywords() -> Mapping[str, Keyword]:
    """Every reserved word, in alphabetical order; `lbdsl.language.grammar` has them without their meanings."""
    return {word: Keyword(**row) for word, row in _table("words.toml").items()}


@cache
def statements() -> tuple[str, ...]:
    """The words that begin a statement."""
    return tuple(word for word, keyword in keywords().items() if keyword.form)


# Words of other tools ------------------------------------------------------------------------------------------------


@cache
def wishes() -> Mapping[str, Mapping[str, str]]:
    """Place -> words with the same answer, separated by spaces -> the answer."""
    places = _table("wishes.toml")
    phrases = places.pop("phrases")
    return {
        place: {words: re.sub(r"\{(\w+)\}", lambda name: phrases[name[1]], said) for words, said in rows.items()}
        for place, rows in places.items()
    }


@cache
def _answers() -> Mapping[tuple[str, str], str]:
    """The answer by place and single word, which is written without its joins."""
    return {
        (place, _joined(word)): said
        for place, rows in wishes().items()
        for words, said in rows.items()
        for word in words.split()
    }


def _joined(word: str) -> str:
    """`slidingwindow` for Sliding-Window and sliding_window, which are one word."""
    return word.lower().replace("-", "").replace("_", "")


def wish(name: str, where: str) -> str | None:
    """The answer for a word that the language does not have; None if there is none. `where` is its place: action, score,
    value, setting, choice, fact, parameter, statement or set."""
    word = _joined(name)
    return _answers().get((where, word)) or _answers().get(("anywhere", word))


def slip(name: str, choices: Iterable[str]) -> str | None:
    """The only choice that `name` can be a typo of, else None; a word that has an answer is never a typo."""
    joined = _joined(name)
    return None if any(word == joined for _, word in _answers()) else nearest.slip(name, choices)
