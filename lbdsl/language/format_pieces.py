"""Tokens for the formatter: each has the comments that follow it, and a kind that tells the uses of one sign apart.

The lexer and the parser do not use this, so it does not slow down `check`. The formatter lexes the parsed text again and
attaches every comment to the last token before it that is not a separator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from heapq import merge

from lbdsl.core.span import Source
from lbdsl.language.layout import OPERANDS, split_statements
from lbdsl.language.lexer import BRACKETS, lex

SEPARATORS = frozenset({"NEWLINE", "SEMICOLON"})
SPACES = " \t\r\f\ufeff"
_BLANK_LINE = re.compile(rf"\n[{SPACES}]*\n")


@dataclass(frozen=True)
class Comment:
    """A comment, right-stripped. `own_line`: only spaces precede it on its line. `gap`: a blank line precedes it."""

    text: str
    own_line: bool
    gap: bool


@dataclass
class Piece:
    """A token and the comments after it; only the first can be on the same line. `gap`: a blank line precedes the token.

    `kind` is the token's, except for signs with several uses: DASH in `4-7`, SIGN in `-3`, ARGUMENT for the `=` in
    `swa(window=4)`, DOMAIN for the `{` in `in {1, 2}`. `depth` counts the brackets around it.
    """

    kind: str
    text: str = ""
    depth: int = 0
    gap: bool = False
    comments: list[Comment] = field(default_factory=list)


def pieces_of(source: Source) -> tuple[Piece, list[list[Piece]]]:
    """A head piece with the comments before the first statement, and the pieces of each statement; the text must parse."""
    text = source.text
    lexed = lex(text)
    chunks, problems = split_statements(source, lexed.tokens)
    assert not problems, "only texts that parse are formatted"
    begins = {chunk.tokens[0].start for chunk in chunks}
    tokens = [token for chunk in chunks for token in chunk.tokens]
    head = last = Piece("HEAD")
    statements: list[list[Piece]] = []
    signs = _Signs()
    end = 0  # end of the last token or comment
    for token in merge(tokens, lexed.comments, key=lambda token: token.start):
        kind = token.type
        if token.start in begins:
            signs = _Signs()
            statements.append([])
        if kind in SEPARATORS:
            statements[-1].append(Piece(signs.use(kind), depth=signs.depth))
            continue
        gap = _BLANK_LINE.search(text, end, token.start) is not None
        if kind == "COMMENT":
            last.comments.append(Comment(token.text.rstrip(SPACES), end == 0 or "\n" in text[end : token.start], gap))
        else:
            # Spaces inside `10M  tokens` are part of the token's text.
            word = token.text if kind in ("STRING", "REGEX") else " ".join(token.text.split())
            last = Piece(signs.use(kind), word, signs.depth, gap)
            if last.kind in ("RPAR", "RSQB"):
                _drop_last_comma(statements[-1])
            statements[-1].append(last)
        end = token.end
    return head, statements


def _drop_last_comma(pieces: list[Piece]) -> None:
    """Remove a comma before a closing bracket; its comments move to the piece before it."""
    if pieces[-1].kind == "COMMA":
        comments, before = pieces.pop().comments, pieces[-1].comments
        before += [replace(comment, own_line=True) for comment in comments] if before else comments


class _Signs:
    """Tells the uses of one sign apart, token by token through a statement."""

    def __init__(self) -> None:
        self.previous = ""
        self.depth = 0
        """How many brackets are around the last token."""
        self.inside = [""]
        """The context outside all brackets, then inside each open one: "set" (of layers), "call" or neither."""

    def use(self, kind: str) -> str:
        """The kind of the next token by its use; `kind` is the lexer's."""
        previous, self.previous = self.previous, kind
        closes = kind in BRACKETS.values()
        self.depth = len(self.inside) - 1 - closes
        if kind in ("LAYERS", "GROUP"):
            self.inside[-1] = "set"
        elif kind in ("WHERE", "UNTIL", "AMONG", *SEPARATORS):
            self.inside[-1] = ""
        elif kind in BRACKETS:
            self.inside.append("call" if kind == "LPAR" and previous == "NAME" else self.inside[-1])
            return "DOMAIN" if kind == "LBRACE" and previous == "IN" else kind
        elif closes:
            self.inside.pop()
        elif kind == "EQUAL" and self.inside[-1] == "call":
            return "ARGUMENT"
        elif kind == "MINUS" and previous not in OPERANDS:
            return "SIGN"
        elif kind == "MINUS" and self.inside[-1] == "set":
            return "DASH"
        return kind
