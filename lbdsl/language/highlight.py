"""The role of each piece of a recipe's text, for syntax highlighting: in Pygments, a terminal, an editor.

The pieces are the parser's own tokens, so a new keyword, action or metric is highlighted without a change here.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import NamedTuple

from lbdsl.actions import actions
from lbdsl.language.lexer import BAD, Token, lex
from lbdsl.language.words import OPERATORS, keywords
from lbdsl.metrics import metrics

TextRole = Enum(
    "TextRole",
    "STATEMENT KEYWORD WORD_OPERATOR ACTION METRIC NAME TYPE FACT KEY VARIABLE "
    "GROUP NUMBER STRING REGEX OPERATOR PUNCTUATION COMMENT SPACE ERROR",
)
"""The role of a piece of text; STATEMENT is the keyword that begins one."""


class Highlighted(NamedTuple):
    """A piece of the text at offset `start`, in characters."""

    start: int
    text: str
    role: TextRole


_BY_KIND = {
    "DOTTED": TextRole.FACT,
    "KEY": TextRole.KEY,
    "VAR": TextRole.VARIABLE,
    "REF": TextRole.GROUP,
    **dict.fromkeys(("INT", "DECIMAL", "QUANTITY", "PERCENT"), TextRole.NUMBER),
    "STRING": TextRole.STRING,
    "REGEX": TextRole.REGEX,
    "NEWLINE": TextRole.SPACE,
    "COMMENT": TextRole.COMMENT,
    BAD: TextRole.ERROR,
    **dict.fromkeys(("PLUS", "MINUS", "TIMES", "OVER", "COMPARE", "EQUAL", "_DOTS"), TextRole.OPERATOR),
}


def pieces(text: str) -> Iterator[Highlighted]:
    """The whole text, split into pieces without gaps. The text beyond the token limit is one `ERROR` piece."""
    lexed = lex(text)
    tokens = sorted([*lexed.tokens, *lexed.comments], key=lambda token: token.start) if lexed.comments else lexed.tokens
    at, before = 0, ""
    for token in tokens:
        if token.start > at:
            yield Highlighted(at, text[at : token.start], TextRole.SPACE)
        yield Highlighted(token.start, token.text, _role(token, before))
        at = token.end
        before = token.type if token.type != "COMMENT" else before
    if at < len(text):
        yield Highlighted(at, text[at:], TextRole.SPACE if lexed.complete else TextRole.ERROR)


def _role(token: Token, before: str) -> TextRole:
    if token.type in ("NAME", "KEY") and before == "COLON":
        return TextRole.TYPE
    if token.type == "NAME":
        return _named().get(token.text, TextRole.NAME)
    keyword = keywords().get(token.text)
    if keyword is not None and token.type == token.text.upper():
        if token.text in OPERATORS:
            return TextRole.WORD_OPERATOR
        return TextRole.STATEMENT if keyword.form else TextRole.KEYWORD
    return _BY_KIND.get(token.type, TextRole.PUNCTUATION)


@cache
def _named() -> dict[str, TextRole]:
    return {
        **dict.fromkeys(actions(), TextRole.ACTION),
        "sensitivity": TextRole.METRIC,
        **dict.fromkeys(metrics(), TextRole.METRIC),
    }
