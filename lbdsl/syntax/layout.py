"""Where statements end: newlines, brackets and nesting, and taking up the thread again after a mistake.

A newline ends a statement except inside `(` and `[`, after a token that wants more (a binary operator, a comma, `=`,
`by until where in not because`) and before `and or except + until because`. A word that begins a statement and can
stand nowhere else ends the one before it wherever it is first on its line; so a bracket that is never closed costs
one error and one statement, not the rest of the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error
from lbdsl.core.span import Source, Span
from lbdsl.syntax.lexer import Token
from lbdsl.syntax.limits import MAX_DEPTH, MAX_DIGITS

CONTINUES_AFTER = frozenset(
    {
        "PLUS",
        "MINUS",
        "TIMES",
        "OVER",
        "COMPARE",
        "COMMA",
        "EQUAL",
        "AND",
        "OR",
        "EXCEPT",
        "MATCHES",
        "BY",
        "UNTIL",
        "WHERE",
        "IN",
        "NOT",
        "BECAUSE",
        "_DOTS",
        "WHILE",
        "FOR",
        "AMONG",
        "MINIMIZING",
        "TO",
    }
)
CONTINUES_BEFORE = frozenset({"AND", "OR", "EXCEPT", "PLUS", "UNTIL", "BECAUSE", "WHILE", "AMONG", "MINIMIZING", "SUBJECT"})
ONLY_BEGINS = frozenset(
    {
        "LBR",
        "RECIPE",
        "REQUIRES",
        "PARAM",
        "LET",
        "GROUP",
        "INCLUDE",
        "MEASURE",
        "HEAL",
        "EVAL",
        "ASSERT",
        "CHOOSE",
        "ELSE",
        "LAYERS",
        "MODULES",
        "WHERE",
    }
)
_RANKS = frozenset({"LOWEST", "HIGHEST"})
_BEFORE_A_RANK = frozenset({"LPAR", "COMMA", "AND", "OR", "EXCEPT", "NOT", "EQUAL", "LAYERS"})
"""`lowest` and `highest` begin a rule, but may stand in a set as well."""

_OPENS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_END = re.compile(r"[ \t\r]*([#;\n]|$)")
_CLOSES = {close: open_ for open_, close in _OPENS.items()}
_OPERANDS = frozenset(
    {"NAME", "DOTTED", "VAR", "REF", "INT", "DECIMAL", "QUANTITY", "PERCENT", "STRING", "REGEX", "RPAR", "RSQB", "RBRACE"}
)
_NUMBERS = frozenset({"INT", "DECIMAL", "QUANTITY", "PERCENT"})
_WORDS = frozenset({"NAME", "DOTTED", "KEY"})


class Chunk(NamedTuple):
    """One statement's tokens. `broken`: a mistake in it has been reported already, so it is not parsed."""

    tokens: list[Token]
    broken: bool


@dataclass
class _Open:
    """A bracket that is open. `inline`: newlines inside it mean nothing."""

    token: Token
    inline: bool
    prefixes: int


@dataclass
class _Layout:
    source: Source
    chunks: list[Chunk] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    current: list[Token] = field(default_factory=list)
    brackets: list[_Open] = field(default_factory=list)
    broken: bool = False
    prefixes: int = 0

    def finish_statement(self) -> None:
        if self.current:
            self.chunks.append(Chunk(self.current, self.broken))
        self.current, self.broken, self.prefixes = [], False, 0
        self.brackets.clear()

    def report(self, diagnostic: Diagnostic) -> None:
        """At most one mistake of this kind a statement: the rest would follow from it."""
        if not self.broken:
            self.diagnostics.append(diagnostic)
        self.broken = True

    def span(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    def unclosed(self, bracket: Token, noticed: Token | None) -> None:
        close = {"(": ")", "[": "]", "{": "}"}[bracket.text]
        labels = () if noticed is None else (Label(self.span(noticed), "noticed here"),)
        self.report(
            error(
                "LB002",
                f"`{bracket.text}` never closed",
                self.span(bracket),
                labels=labels,
                help=f"write the `{close}` that ends it",
            )
        )


def split_statements(source: Source, tokens: Sequence[Token]) -> tuple[list[Chunk], list[Diagnostic]]:
    """The statements of a file, newlines inside them left out, and mistakes in brackets, nesting and numbers."""
    layout = _Layout(source)
    following = _next_words(tokens)
    line_first = True
    for index, token in enumerate(tokens):
        previous = layout.current[-1] if layout.current else None
        if token.type == "NEWLINE":
            line_first = True
            _newline(layout, token, previous, following[index])
            continue
        first, line_first = line_first, False
        if first and previous is not None and _begins(layout, token, previous):
            _begin(layout, token)
        if token.type == "SEMICOLON":
            _semicolon(layout, token)
            continue
        if token.type in _CLOSES and not _close(layout, token):
            continue
        layout.current.append(token)
        _check_number(layout, token, tokens[index + 1] if index + 1 < len(tokens) else None)
        _nest(layout, token, previous)
    if layout.brackets:
        layout.unclosed(layout.brackets[-1].token, None)
    layout.finish_statement()
    return layout.chunks, layout.diagnostics


def _next_words(tokens: Sequence[Token]) -> list[Token | None]:
    """For each index, the next token that is not a newline."""
    out: list[Token | None] = [None] * len(tokens)
    upcoming: Token | None = None
    for index in range(len(tokens) - 1, -1, -1):
        out[index] = upcoming
        if tokens[index].type != "NEWLINE":
            upcoming = tokens[index]
    return out


def _newline(layout: _Layout, token: Token, previous: Token | None, following: Token | None) -> None:
    if previous is None or (layout.brackets and layout.brackets[-1].inline):
        return
    if previous.type in CONTINUES_AFTER or (following is not None and following.type in CONTINUES_BEFORE):
        return
    if layout.brackets:
        layout.current.append(token)
    else:
        layout.finish_statement()


def _begins(layout: _Layout, token: Token, previous: Token) -> bool:
    """Whether a token that is first on its line begins a statement, although the one before it has not ended."""
    if token.type in ONLY_BEGINS:
        return not (previous.type in ("IN", "FOR") and token.type == "LAYERS")
    if token.type in _RANKS:
        return previous.type not in _BEFORE_A_RANK
    # Two words side by side mean nothing inside brackets; without indentation the second begins a statement.
    column_1 = token.start == 0 or layout.source.text[token.start - 1] == "\n"
    inline = bool(layout.brackets) and layout.brackets[-1].inline
    return column_1 and inline and token.type == "NAME" and previous.type in _OPERANDS


def _begin(layout: _Layout, token: Token) -> None:
    """A word that only begins statements, first on its line, while one is still going on."""
    if layout.brackets:
        layout.unclosed(layout.brackets[-1].token, token)
    layout.finish_statement()


def _semicolon(layout: _Layout, token: Token) -> None:
    while layout.brackets and layout.brackets[-1].inline:
        layout.unclosed(layout.brackets.pop().token, token)
    if layout.brackets:
        layout.current.append(token)
    else:
        layout.finish_statement()


def _typed_twice(layout: _Layout, bracket: Token) -> bool:
    """`swa(window=512))` at the end of a statement: without it nothing else is enclosed."""
    last = layout.current[-1] if layout.current else None
    return last is not None and last.type == bracket.type and _END.match(layout.source.text, bracket.end) is not None


def _close(layout: _Layout, token: Token) -> bool:
    """Take a closing bracket off the stack; False when it closes nothing and is left out."""
    wanted = _CLOSES[token.type]
    if not any(bracket.token.type == wanted for bracket in layout.brackets):
        if layout.brackets:
            top = layout.brackets.pop()
            layout.report(
                error(
                    "LB003",
                    f"`{top.token.text}` closed by `{token.text}`",
                    layout.span(token),
                    labels=(Label(layout.span(top.token), "opened here"),),
                    help="brackets close in pairs",
                )
            )
            layout.prefixes = top.prefixes
        else:
            layout.report(
                error(
                    "LB003",
                    f"`{token.text}` closes nothing",
                    layout.span(token),
                    help="open it before, or remove it",
                    fix=Fix("remove it", (Edit(layout.span(token), ""),)) if _typed_twice(layout, token) else None,
                )
            )
        return False
    while layout.brackets[-1].token.type != wanted:
        layout.unclosed(layout.brackets.pop().token, token)
    layout.prefixes = layout.brackets.pop().prefixes
    return True


def _nest(layout: _Layout, token: Token, previous: Token | None) -> None:
    """Count brackets and prefix operators, so that no later stage meets a deeper tree."""
    operand_before = previous is not None and previous.type in _OPERANDS
    if token.type in _OPENS:
        inline = token.type != "LBRACE" or (previous is not None and previous.type == "IN")
        layout.brackets.append(_Open(token, inline, layout.prefixes))
        layout.prefixes = 0
    elif token.type in ("NOT", "MINUS") and not operand_before:
        layout.prefixes += 1
    elif token.type not in _CLOSES:
        layout.prefixes = 0
    depth = len(layout.brackets) + layout.prefixes + sum(bracket.prefixes for bracket in layout.brackets[:MAX_DEPTH])
    if depth > MAX_DEPTH:
        layout.report(
            error(
                "LB005",
                f"nesting deeper than {MAX_DEPTH}",
                layout.span(token),
                help="brackets, `not` and signs together may be nested at most "
                f"{MAX_DEPTH} deep; name parts with `let` or `group`",
            )
        )


def _check_number(layout: _Layout, token: Token, following: Token | None) -> None:
    if token.type not in _NUMBERS:
        return
    digits = sum(char.isdigit() for char in token.text)
    if digits > MAX_DIGITS:
        layout.report(
            error(
                "LB006",
                f"number with {digits} digits",
                layout.span(token),
                help=f"a number may have at most {MAX_DIGITS} digits",
            )
        )
    elif following is not None and following.start == token.end and following.type in _WORDS:
        whole = Span(layout.source, token.start, following.end)
        layout.report(
            error(
                "LB007",
                f"`{whole.text}` is not a number",
                whole,
                help="prefixes are `k M G` (decimal) and `Ki Mi Gi` (binary); units are `B`, `%` and ` tokens`",
            )
        )
