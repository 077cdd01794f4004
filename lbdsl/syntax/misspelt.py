"""A keyword with a slip of the keyboard: the word is put right on trial, and the parser says whether that helps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.nearest import close_words
from lbdsl.syntax.grammar import keywords
from lbdsl.syntax.lexer import Token
from lbdsl.syntax.parser import Failure, Parser
from lbdsl.syntax.place import Place, form_of, replacement
from lbdsl.syntax.wishes import slip, wish

_WORDS = frozenset({"NAME", "KEY", "DOTTED"})
_TRIALS = 6
LONGEST = 2000
"""Statements with more tokens are not parsed again: a hostile file must not cost more than its length."""


def misspelt_keyword(p: Place) -> Diagnostic | None:
    """`layers 0-9 exept 3 keep`. A misspelt keyword is taken for a name, often for the action's, so the failure is at
    the word or one or two tokens behind it."""
    if len(p.tokens) > LONGEST:
        return None
    best: tuple[int, int, str] | None = None
    for index, word in islice(_candidates(p), _TRIALS):
        reached = _reached(p, index, word)
        if reached > p.failure.index and (best is None or reached > best[0]):
            best = (reached, index, word)
    if best is None:
        return None
    _, index, word = best
    token = p.tokens[index]
    span = p.span(token)
    return error(
        "LB050",
        f"unexpected `{token.text}`",
        span,
        help=(f"did you mean `{word}`?", *form_of(p)),
        fix=replacement(f"write `{word}`", span, word) if slip(token.text, keywords()) == word else None,
    )


def _candidates(p: Place) -> Iterator[tuple[int, str]]:
    """Words of the statement near its failure, each with the keywords like it, the likest first."""
    words = keywords()
    for index in (p.failure.index, p.failure.index - 1, p.failure.index - 2):
        if 0 < index < len(p.tokens):
            token = p.tokens[index]
            if token.type in _WORDS and token.text not in p.actions and wish(token.text, "set") is None:
                for word in close_words(token.text, words)[:3]:
                    yield index, word


def _reached(p: Place, index: int, word: str) -> int:
    """How far the statement parses with `word` at `index`; past its end when it is a whole statement."""
    token = p.tokens[index]
    trial = list(p.tokens)
    trial[index] = Token(keywords()[word], word, token.start, token.end)
    found = Parser(p.source).parse(trial)
    return found.index if isinstance(found, Failure) else len(trial) + 1
