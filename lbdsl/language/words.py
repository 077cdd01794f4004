"""The words of the language: one table for messages, highlighting, completion, hover, `explain` and docs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Keyword(NamedTuple):
    """A reserved word; its terminal in the grammar is the word in upper case. `form` is the syntax of the statement that it
    begins, `snippet` the text that completion inserts."""

    meaning: str
    example: str
    form: str = ""
    snippet: str = ""


@cache
def keywords() -> Mapping[str, Keyword]:
    """Every reserved word, in alphabetical order, from `words.toml` next to this file. It is read only when meanings are
    needed; `lbdsl.language.grammar` has the set of reserved words."""
    import tomllib  # lazy: a recipe without errors does not need it

    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {word: Keyword(**row) for word, row in rows.items()}


@cache
def statements() -> tuple[str, ...]:
    """The words that begin a statement."""
    return tuple(word for word, keyword in keywords().items() if keyword.form)


BLOCKS = ("measure", "heal", "eval")
RULES = ("else", "where", "layers", "modules", "lowest", "highest", "choose")
OPERATORS = frozenset({"and", "or", "not", "in", "matches", "except"})
