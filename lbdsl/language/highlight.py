"""The Pygments token type of each piece of a recipe's text, for syntax highlighting: in Pygments, a terminal, an editor.

The pieces are the parser's own tokens, so a new keyword, action or metric is highlighted without a change here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from pygments import token as kinds

from lbdsl.actions import actions
from lbdsl.language.lexer import BAD, NUMBERS, Token, lex
from lbdsl.language.words import OPERATORS, keywords
from lbdsl.metrics import metrics

STATEMENT, GROUP = kinds.Keyword.Declaration, kinds.Name.Label
"""A keyword that begins a statement, and `@name`."""


class Highlighted(NamedTuple):
    """A piece of the text at offset `start`, in characters, in the order of Pygments' lexers."""

    start: int
    role: Any
    text: str


_BY_KIND = {
    **dict.fromkeys(("DOTTED", "KEY"), kinds.Name.Attribute),
    "VAR": kinds.Name.Variable,
    "REF": GROUP,
    **dict.fromkeys(NUMBERS, kinds.Number),
    "STRING": kinds.String.Double,
    "REGEX": kinds.String.Regex,
    "NEWLINE": kinds.Whitespace,
    "COMMENT": kinds.Comment.Single,
    BAD: kinds.Error,
    **dict.fromkeys(("PLUS", "MINUS", "TIMES", "OVER", "COMPARE", "EQUAL", "_DOTS"), kinds.Operator),
}


def pieces(text: str) -> Iterator[Highlighted]:
    """The whole text, split into pieces without gaps. The text beyond the token limit is one `Error` piece."""
    lexed = lex(text)
    tokens = sorted([*lexed.tokens, *lexed.comments], key=lambda token: token.start) if lexed.comments else lexed.tokens
    at, before = 0, ""
    for token in tokens:
        if token.start > at:
            yield Highlighted(at, kinds.Whitespace, text[at : token.start])
        yield Highlighted(token.start, _role(token, before), token.text)
        at = token.end
        before = token.type if token.type != "COMMENT" else before
    if at < len(text):
        yield Highlighted(at, kinds.Whitespace if lexed.complete else kinds.Error, text[at:])


def _role(token: Token, before: str) -> Any:
    if token.type in ("NAME", "KEY") and before == "COLON":
        return kinds.Keyword.Type
    if token.type == "NAME":
        return _named().get(token.text, kinds.Name)
    keyword = keywords().get(token.text)
    if keyword is not None and token.type == token.text.upper():
        if token.text in OPERATORS:
            return kinds.Operator.Word
        return STATEMENT if keyword.form else kinds.Keyword
    return _BY_KIND.get(token.type, kinds.Punctuation)


@cache
def _named() -> dict[str, Any]:
    return dict.fromkeys(actions(), kinds.Name.Function) | dict.fromkeys(("sensitivity", *metrics()), kinds.Name.Builtin)
