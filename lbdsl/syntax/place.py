"""A statement that does not parse, and the place where it stopped making sense."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lbdsl.core.diagnostic import Edit, Fix
from lbdsl.core.span import Source, Span
from lbdsl.syntax.lexer import Token
from lbdsl.syntax.names import BLOCK_WORDS
from lbdsl.syntax.parser import Failure

FORMS = {
    "else": "else ACTION",
    "where": "where CONDITION ACTION",
    "layers": "layers SET [where CONDITION] ACTION",
    "modules": 'modules "GLOB" [in layers SET] [where CONDITION] ACTION',
    "lowest": "lowest AMOUNT [of rest] by METRIC [until CONDITION] ACTION",
    "highest": "highest AMOUNT [of rest] by METRIC [until CONDITION] ACTION",
    "lbr": "lbr 1",
    "recipe": 'recipe "NAME"',
    "requires": "requires CONDITION",
    "param": "param $NAME: TYPE [in LOW..HIGH] [= DEFAULT]",
    "let": "let $NAME = VALUE",
    "group": "group @NAME = SET",
    "include": 'include "FILE" [sha256 "HASH"]',
    "measure": "measure { KEY = VALUE; ... }",
    "heal": "heal { KEY = VALUE; ... }",
    "eval": "eval { KEY = VALUE; ... }",
    "search": "search { vary $NAME in LOW..HIGH; minimize VALUE; ... }",
    "assert": "assert CONDITION",
}


@dataclass(frozen=True)
class Place:
    """A statement and where it stopped making sense. `token` is None at the statement's end."""

    source: Source
    tokens: Sequence[Token]
    failure: Failure
    actions: Collection[str]

    @property
    def token(self) -> Token | None:
        return self.tokens[self.failure.index] if self.failure.index < len(self.tokens) else None

    def before(self, steps: int = 1) -> Token | None:
        """The token `steps` before the failure."""
        index = self.failure.index - steps
        return self.tokens[index] if index >= 0 else None

    def after(self, steps: int = 1) -> Token | None:
        index = self.failure.index + steps
        return self.tokens[index] if index < len(self.tokens) else None

    @property
    def kind(self) -> str:
        return self.token.type if self.token else ""

    @property
    def first(self) -> str:
        return self.tokens[0].text

    def expects(self, *symbols: str) -> bool:
        return all(symbol in self.failure.expected for symbol in symbols)

    def span(self, first: Token | None = None, last: Token | None = None) -> Span:
        """The span of a token, or from one to another; by default of the failure (its end is an empty span)."""
        if first is None:
            if self.token is None:
                end = self.tokens[-1].end
                return Span(self.source, end, end)
            first = self.token
        return Span(self.source, first.start, (last or first).end)

    def block_bracket(self) -> bool:
        """Inside `{ }` of a block, outside its parentheses."""
        depth: list[str] = []
        for token in self.tokens[: self.failure.index]:
            if token.type in ("LPAR", "LSQB", "LBRACE"):
                depth.append(token.type)
            elif token.type in ("RPAR", "RSQB", "RBRACE"):
                depth.pop()
        return bool(depth) and depth[-1] == "LBRACE" and self.first in BLOCK_WORDS


def form_of(place: Place) -> tuple[str, ...]:
    """A help line with the statement's form."""
    form = FORMS.get(place.first)
    return (f"the form is `{form}`",) if form else ()


def replacement(title: str, span: Span, text: str) -> Fix:
    """The fix that writes `text` in place of `span`."""
    return Fix(title, (Edit(span, text),))
