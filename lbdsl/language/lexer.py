"""The lexer: text to tokens. It reports no errors: text that no terminal matches becomes a `BAD` token."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from lbdsl.language.grammar import grammar
from lbdsl.language.limits import MAX_TOKENS

BAD = "BAD"
END = "$END"
NUMBERS = frozenset({"INT", "DECIMAL", "QUANTITY", "PERCENT"})
BRACKETS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
"""The closing bracket of each opening one."""


class Token(NamedTuple):
    """A token in the form that Lark's parser takes; `type` is a terminal, `start` and `end` are offsets in characters."""

    type: str
    text: str
    start: int
    end: int


@cache
def _pattern() -> re.Pattern[str]:
    terminals = {**grammar().terminals, BAD: r"[\s\S]"}
    return re.compile("|".join(f"(?P<{name}>{regex})" for name, regex in terminals.items()))


class Lexed(NamedTuple):
    tokens: list[Token]
    comments: list[Token]
    complete: bool
    """False when the limit was reached before the end of the text."""


def lex(text: str) -> Lexed:
    """At most MAX_TOKENS tokens of a text, and its comments. A run of the same bad character is one token."""
    ignored, keywords = grammar().ignored, grammar().keywords
    tokens: list[Token] = []
    comments: list[Token] = []
    for match in _pattern().finditer(text):
        kind = match.lastgroup
        assert kind is not None, "every alternative is a named group"
        if kind in ignored:
            if kind == "COMMENT":
                comments.append(Token(kind, match.group(), match.start(), match.end()))
            continue
        word = match.group()
        if kind == "NAME" and word in keywords:
            kind = word.upper()
        elif kind == BAD and tokens:
            last = tokens[-1]
            if last.type == BAD and last.end == match.start() and word == last.text[0]:
                tokens[-1] = Token(BAD, last.text + word, last.start, match.end())
                continue
        if len(tokens) == MAX_TOKENS:
            return Lexed(tokens, comments, False)
        tokens.append(Token(kind, word, match.start(), match.end()))
    return Lexed(tokens, comments, True)


def one_line(text: str) -> str:
    """A part of a recipe's text on one line, without its comments: for messages, plans and reports."""
    if "#" in text:
        text = _pattern().sub(lambda match: "" if match.lastgroup == "COMMENT" else match[0], text)
    return " ".join(text.split())


_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


def string_text(value: str) -> str:
    """The string literal for a value, in quotes and escaped."""
    return f'"{value.translate(_ESCAPES)}"'
