"""The words of the language: the one table that messages, colours, completion, hover, `explain` and docs read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Keyword(NamedTuple):
    """A reserved word; its terminal in the grammar is the word in capitals. `form` is that of the statement that it begins,
    `snippet` what completion writes for it."""

    meaning: str
    example: str
    form: str = ""
    snippet: str = ""


@cache
def keywords() -> Mapping[str, Keyword]:
    """Every reserved word, in the order of the alphabet. They are in `words.toml` beside this file, which is read when it
    is asked what a word means; `lbdsl.language.grammar` knows which there are."""
    import tomllib  # a recipe without a mistake need not wait for it

    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {word: Keyword(**row) for word, row in rows.items()}


@cache
def statements() -> tuple[str, ...]:
    """The words that begin a statement."""
    return tuple(word for word, keyword in keywords().items() if keyword.form and word not in PLANNED)


PLANNED = frozenset({"among", "choose", "for", "minimizing", "stage", "subject", "to", "while"})
"""Words of forms that are read and refused (`lbdsl.language.planned`). Nobody is told to write them."""

BLOCKS = ("measure", "heal", "eval")
RULES = ("else", "where", "layers", "modules", "lowest", "highest")
OPERATORS = frozenset({"and", "or", "not", "in", "matches", "except"})

REMOVED: Mapping[str, str] = dict.fromkeys(
    ("search", "tune"),
    "`--set NAME=VALUE` tries another value of a parameter; `choose`, which finds the best plan for a budget, and "
    "`--sweep`, which tries several values, are planned and not in this version",
)
"""Words that once began a statement or a command, and what takes their place."""
