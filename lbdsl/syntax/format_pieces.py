"""Tokens as the formatter sees them: each with the comments that follow it, and what its sign is used for.

Neither lexer nor parser knows of this: `check` pays nothing for it. The formatter lexes a text that has parsed once more,
and attaches every comment to the last token before it that is more than a separator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lbdsl.core.span import Source
from lbdsl.syntax import tree
from lbdsl.syntax.layout import Chunk, split_statements
from lbdsl.syntax.lexer import Token, lex
from lbdsl.syntax.limits import MAX_TOKENS

OPENS, CLOSES = frozenset({"LPAR", "LSQB", "LBRACE"}), frozenset({"RPAR", "RSQB", "RBRACE"})
SEPARATORS = frozenset({"NEWLINE", "SEMICOLON"})
_BLANK_LINE = re.compile(r"\n[ \t\r\f\ufeff]*\n")


class Comment(NamedTuple):
    """A comment without spaces at its end. `own_line`: nothing but spaces stands before it. `gap`: a blank line does."""

    text: str
    own_line: bool
    gap: bool


class Piece(NamedTuple):
    """A token with the comments after it, of which only the first can stand on its line.

    `role` tells uses of one sign apart: of `-`, "range" in `4-7` and "sign" in `-3`; of `=`, "argument" in `swa(window=4)`;
    of `{`, "domain" in `in {1, 2}`; else it is "".
    `gap`: a blank line stands before it.
    """

    kind: str
    text: str
    role: str = ""
    gap: bool = False
    comments: tuple[Comment, ...] = ()


class Pieces(NamedTuple):
    """A file: the comments above everything, and each statement's pieces."""

    head: tuple[Comment, ...]
    statements: list[list[Piece]]


def pieces_of(source: Source, statements: Sequence[tree.Statement]) -> Pieces:
    """The pieces of a text without syntax errors, whose tree is `statements`."""
    lexed = lex(source.text, MAX_TOKENS)
    chunks, problems = split_statements(source, lexed.tokens)
    assert not problems, "only texts that parse are formatted"
    assert len(chunks) == len(statements), "each statement has its tokens"
    return _attach(source.text, chunks, lexed.comments, _Roles.of(statements))


@dataclass
class _Roles:
    """What signs are used for. `signs` are offsets of `-`, `before_dash` the ends of tokens before a range's `-`, both
    from the tree; `brackets` are those open where the walk over the tokens is."""

    signs: frozenset[int]
    before_dash: frozenset[int]
    brackets: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, statements: Iterable[tree.Statement]) -> _Roles:
        signs, before_dash = set(), set()
        for node in _walk(statements):
            if isinstance(node, tree.Minus):
                signs.add(node.span.start)
            elif isinstance(node, tree.Range):
                before_dash.add(node.first.span.end)
        return cls(frozenset(signs), frozenset(before_dash))

    def role(self, token: Token, previous: Token | None) -> str:
        """The role of the next token; `previous` is the one before it in its statement."""
        kind = token.type
        if kind in OPENS:
            self.brackets.append(kind)
            return "domain" if kind == "LBRACE" and previous is not None and previous.type == "IN" else ""
        if kind in CLOSES:
            self.brackets.pop()
        elif kind == "EQUAL" and self.brackets and self.brackets[-1] == "LPAR":
            return "argument"
        elif kind == "MINUS":
            if token.start in self.signs:
                return "sign"
            if previous is not None and previous.end in self.before_dash:
                return "range"
        return ""


def _walk(statements: Iterable[tree.Node]) -> Iterator[tree.Node]:
    """Every node, found through the fields that its class declares."""
    waiting: list[object] = list(statements)
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple):
            waiting.extend(value)
        elif isinstance(value, tree.Node):
            yield value
            waiting.extend(value.__dict__.values())


def _attach(text: str, chunks: Sequence[Chunk], comments: Sequence[Token], roles: _Roles) -> Pieces:
    head: list[Comment] = []
    made: list[list[Piece]] = []
    upcoming = iter([*comments, None])
    comment = next(upcoming)
    end = 0  # of the last token or comment

    def gap(start: int) -> bool:
        return _BLANK_LINE.search(text, end, start) is not None

    for chunk in chunks:
        pieces: list[Piece] = []
        made.append(pieces)
        previous: Token | None = None
        for token in chunk.tokens:
            while comment is not None and comment.start < token.start:
                _add(comment, made, head, text, gap(comment.start), end)
                end, comment = comment.end, next(upcoming)
            if token.type in SEPARATORS:
                pieces.append(Piece(token.type, token.text))
                continue
            # Blanks inside `10M  tokens` are part of the token's text.
            word = token.text if token.type in ("STRING", "REGEX") else " ".join(token.text.split())
            pieces.append(Piece(token.type, word, roles.role(token, previous), gap(token.start)))
            previous, end = token, token.end
    while comment is not None:
        _add(comment, made, head, text, gap(comment.start), end)
        end, comment = comment.end, next(upcoming)
    return Pieces(tuple(head), made)


def _add(comment: Token, made: list[list[Piece]], head: list[Comment], text: str, gap: bool, end: int) -> None:
    """Attach a comment to the last token, or to the head of the file."""
    own_line = end == 0 or "\n" in text[end : comment.start]
    found = Comment(comment.text.rstrip(" \t\r\f\ufeff"), own_line, gap)
    for pieces in reversed(made):
        for index in range(len(pieces) - 1, -1, -1):
            piece = pieces[index]
            if piece.kind not in SEPARATORS:
                pieces[index] = piece._replace(comments=(*piece.comments, found))
                return
    head.append(found)
