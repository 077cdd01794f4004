"""Text to tokens. Nothing is refused here: what no terminal matches becomes a `BAD` token."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, NamedTuple

from lbdsl.core.resources import resource_folder
from lbdsl.syntax.names import MAX_TOKENS, TABLES

BAD = "BAD"
END = "$END"


class Token(NamedTuple):
    """A terminal with its text; `start` and `end` are offsets in characters."""

    kind: str
    text: str
    start: int
    end: int


class Tables(NamedTuple):
    """The shipped LALR tables, see `lbdsl.syntax.tables.make_tables`."""

    pattern: re.Pattern[str]
    keywords: dict[str, str]
    ignore: frozenset[str]
    rules: list[tuple[str, str, int, list[int], str]]
    states: list[dict[str, int]]
    start: int
    end: int


@cache
def tables() -> Tables:
    """The tables, read once."""
    data: dict[str, Any] = json.loads((resource_folder("grammars") / TABLES).read_text(encoding="utf-8"))
    alternatives = "|".join(f"(?P<{name}>{regex})" for name, regex in [*data["terminals"], [BAD, r"[\s\S]"]])
    return Tables(
        re.compile(alternatives),
        data["keywords"],
        frozenset(data["ignore"]),
        data["rules"],
        data["states"],
        data["start"],
        data["end"],
    )


class Lexed(NamedTuple):
    tokens: list[Token]
    comments: list[Token]
    complete: bool
    """False when the limit was reached before the end of the text."""


def lex(text: str, limit: int) -> Lexed:
    """At most `limit` tokens of a text; comments and spaces apart. Equal bad characters in a row are one token."""
    known = tables()
    keywords, ignore = known.keywords, known.ignore
    tokens: list[Token] = []
    comments: list[Token] = []
    for match in known.pattern.finditer(text):
        kind = match.lastgroup
        assert kind is not None, "every alternative is a named group"
        if kind in ignore:
            if kind == "COMMENT":
                comments.append(Token(kind, match.group(), match.start(), match.end()))
            continue
        word = match.group()
        if kind == "NAME":
            kind = keywords.get(word, kind)
        elif kind == BAD and tokens:
            last = tokens[-1]
            if last.kind == BAD and last.end == match.start() and word == last.text[0]:
                tokens[-1] = Token(BAD, last.text + word, last.start, match.end())
                continue
        if len(tokens) == limit:
            return Lexed(tokens, comments, False)
        tokens.append(Token(kind, word, match.start(), match.end()))
    return Lexed(tokens, comments, True)


def one_line(text: str) -> str:
    """A part of a recipe's text on one line, without its comments: for messages, plans and reports."""
    if "#" in text:
        kept, position = [], 0
        for comment in lex(text, MAX_TOKENS).comments:
            kept.append(text[position : comment.start])
            position = comment.end
        text = "".join([*kept, text[position:]])
    return " ".join(text.split())
