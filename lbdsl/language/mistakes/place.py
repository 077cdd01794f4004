"""A statement that does not parse, and the place where parsing failed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, error
from lbdsl.core.span import Source, Span
from lbdsl.language.lexer import Token
from lbdsl.language.parser import Failure, Parser
from lbdsl.language.words import RULES, keywords

WORDS = frozenset({"NAME", "KEY", "DOTTED"})

LONGEST = 2000
"""Statements with more tokens are not parsed again, so that a hostile file takes only linear time."""


@dataclass(frozen=True)
class Mistake:
    """A statement and where parsing failed. `actions` are the names of known actions."""

    source: Source
    tokens: Sequence[Token]
    failure: Failure
    actions: Collection[str]

    def at(self, steps: int = 0) -> Token:
        """The token `steps` after the failure; outside the statement, a token without a type."""
        index = self.failure.index + steps
        if 0 <= index < len(self.tokens):
            return self.tokens[index]
        end = self.tokens[-1].end if index > 0 else self.tokens[0].start
        return Token("", "", end, end)

    @cached_property
    def token(self) -> Token:
        return self.at()

    @property
    def type(self) -> str:
        return self.token.type

    @property
    def first(self) -> str:
        return self.tokens[0].text

    @property
    def is_rule(self) -> bool:
        return self.first in RULES

    def expects(self, *terminals: str) -> bool:
        return self.failure.expected.issuperset(terminals)

    @property
    def form(self) -> tuple[str, ...]:
        """A help line with the statement's form."""
        form = keywords()[self.first].form if self.first in keywords() else ""
        return (f"the form is `{form}`",) if form else ()

    def reached(self, tokens: Sequence[Token]) -> int:
        """How many of these tokens parse; one more than there are if they are a complete statement."""
        found = Parser(self.source).parse(tokens)
        return found.index if isinstance(found, Failure) else len(tokens) + 1

    def fits(self, start: int, end: int, *new: Token) -> bool:
        """Whether the statement is complete with `new` in place of its tokens from `start` to `end`: a fix leaves no other
        error in it."""
        tokens = [*self.tokens[:start], *new, *self.tokens[end:]]
        return 0 < len(tokens) <= LONGEST and self.reached(tokens) > len(tokens)

    def span(self, first: Token, last: Token | None = None) -> Span:
        return Span(self.source, first.start, (last or first).end)

    def edit(self, title: str, text: str, start: int, end: int | None = None) -> Fix:
        """A fix that writes `text` at `start`, replacing the text up to `end`."""
        return Fix(title, (Edit(Span(self.source, start, start if end is None else end), text),))

    def error(
        self, code: str, message: str, first: Token | None = None, last: Token | None = None, **more: Any
    ) -> Diagnostic:
        """A diagnostic at some tokens, by default the one at the failure; `more` as for `error`."""
        return error(code, message, self.span(first or self.token, last), **more)


def last_call(tokens: Sequence[Token]) -> int:
    """The index of the name of the last call, before its arguments."""
    depth = 0
    for index in range(len(tokens) - 1, 0, -1):
        depth += (tokens[index].type == "RPAR") - (tokens[index].type == "LPAR")
        if depth == 0 and tokens[index].type != "LPAR":
            return index
    return 0


def keyword(word: str) -> Token:
    """A keyword that is not in the source, for a trial parse."""
    return Token(word.upper(), word, 0, 0)
