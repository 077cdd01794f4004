"""Where statements end: newlines, brackets and nesting, and error recovery.

A newline ends a statement except inside `(` and `[`, after a token that needs an operand (a binary operator, a comma,
`by`, ...: CONTINUES_AFTER) and before one that continues it (`and`, `until`, ...: CONTINUES_BEFORE). A word that can only
begin a statement ends the previous one if it is first on its line; so a bracket that is never closed costs one error and
one statement, not the rest of the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lbdsl.core.diagnostic import Diagnostic, Edit, Fix, Label, error
from lbdsl.core.nearest import nearest
from lbdsl.core.span import Source, Span
from lbdsl.core.units import readings, readings_text
from lbdsl.language.grammar import grammar
from lbdsl.language.lexer import BRACKETS, NUMBERS, Token
from lbdsl.language.limits import MAX_DEPTH, MAX_DIGITS
from lbdsl.language.words import keywords


def _set(terminals: str) -> frozenset[str]:
    return frozenset(terminals.split())


WANTS_MORE = _set("PLUS MINUS TIMES OVER COMPARE AND OR NOT IN MATCHES EXCEPT")
"""Operators, which need a right operand."""

CONTINUES_AFTER = WANTS_MORE | _set("COMMA EQUAL _DOTS BY UNTIL WHILE WHERE BECAUSE FOR AMONG MINIMIZING TO")
CONTINUES_BEFORE = _set("AND OR EXCEPT PLUS UNTIL WHILE BECAUSE AMONG MINIMIZING SUBJECT")
ONLY_BEGINS = _set("LBR RECIPE REQUIRES PARAM LET GROUP INCLUDE MEASURE HEAL EVAL ASSERT CHOOSE ELSE LAYERS MODULES WHERE")
_RANKS = frozenset({"LOWEST", "HIGHEST"})
_BEFORE_A_RANK = _set("LPAR COMMA AND OR EXCEPT NOT EQUAL LAYERS")
"""`lowest` and `highest` begin a rule, but may also appear in a set."""

_CLOSES = {closing: opening for opening, closing in BRACKETS.items()}
OPERANDS = NUMBERS | _set("NAME DOTTED VAR REF STRING REGEX RPAR RSQB RBRACE")
_END_OF_STATEMENT = re.compile(r"[ \t\r]*([#;\n]|$)")


class Chunk(NamedTuple):
    """One statement's tokens. `broken`: an error in it has been reported already, so it is not parsed."""

    tokens: list[Token]
    broken: bool


class _Bracket(NamedTuple):
    """An open bracket. `inline`: newlines inside it are ignored. `prefixes`: prefix operators counted before it."""

    token: Token
    inline: bool
    prefixes: int


_NOTHING = Token("", "", 0, 0)


def split_statements(source: Source, tokens: Sequence[Token]) -> tuple[list[Chunk], list[Diagnostic]]:
    """The statements of a file, without newlines inside them, and errors in brackets, nesting and numbers."""
    layout = _Layout(source)
    line_first = True
    for index, token in enumerate(tokens):
        if token.type == "NEWLINE":
            line_first = True
            layout.newline(token, tokens, index + 1)
            continue
        if line_first and layout.begins(token):
            layout.finish(noticed=token)
        line_first = False
        if token.type == "SEMICOLON":
            layout.semicolon(token)
        elif token.type not in _CLOSES or layout.close(token):
            layout.take(token)
            if token.type in NUMBERS:
                layout.check_number(token, tokens[index + 1] if index + 1 < len(tokens) else _NOTHING)
    layout.finish()
    return layout.chunks, layout.diagnostics


def _continues(token: Token) -> bool:
    """Whether a token that is first on its line continues the statement before it. So does a misspelt word: no statement
    begins with a name, and its error is then that of the word."""
    if token.type != "NAME":
        return token.type in CONTINUES_BEFORE
    return (nearest(token.text.lower(), keywords()) or "").upper() in CONTINUES_BEFORE


class _Layout:
    """The statement being read, and those before it."""

    def __init__(self, source: Source):
        self.source = source
        self.chunks: list[Chunk] = []
        self.diagnostics: list[Diagnostic] = []
        self.next_word = 0
        self.start()

    def start(self) -> None:
        self.current: list[Token] = []
        self.brackets: list[_Bracket] = []
        self.broken = False
        self.prefixes = 0

    def finish(self, noticed: Token | None = None) -> None:
        """End the statement; `noticed` is the token that shows that it has ended, maybe with brackets still open."""
        if self.brackets:
            self.unclosed(self.brackets[-1].token, noticed)
        if self.current:
            self.chunks.append(Chunk(self.current, self.broken))
        self.start()

    @property
    def previous(self) -> Token:
        return self.current[-1] if self.current else _NOTHING

    @property
    def inline(self) -> bool:
        return bool(self.brackets) and self.brackets[-1].inline

    def mistake(self, code: str, message: str, span: Span, **more: Any) -> None:
        """Report an error, at most one per statement: others would only follow from it."""
        if not self.broken:
            self.diagnostics.append(error(code, message, span, **more))
        self.broken = True

    def span(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    def newline(self, token: Token, tokens: Sequence[Token], index: int) -> None:
        if not self.current or self.inline or self.previous.type in CONTINUES_AFTER:
            return
        self.next_word = max(self.next_word, index)  # skip a run of newlines only once
        while self.next_word < len(tokens) and tokens[self.next_word].type == "NEWLINE":
            self.next_word += 1
        if self.next_word < len(tokens) and _continues(tokens[self.next_word]):
            return
        if self.brackets:
            self.current.append(token)
        else:
            self.finish()

    def begins(self, token: Token) -> bool:
        """Whether a token that is first on its line begins a statement, although the one before it has not ended."""
        if not self.current:
            return False
        if token.type in ONLY_BEGINS:
            return not (token.type == "LAYERS" and self.previous.type in ("IN", "FOR"))
        if token.type in _RANKS:
            return self.previous.type not in _BEFORE_A_RANK
        # Two adjacent words are invalid inside brackets; if the second is in column 1, it begins a statement.
        column_1 = token.start == 0 or self.source.text[token.start - 1] == "\n"
        return column_1 and self.inline and token.type == "NAME" and self.previous.type in OPERANDS

    def semicolon(self, token: Token) -> None:
        while self.inline:
            self.unclosed(self.brackets.pop().token, token)
        if self.brackets:
            self.current.append(token)
        else:
            self.finish()

    def unclosed(self, bracket: Token, noticed: Token | None) -> None:
        labels = () if noticed is None else Label(self.span(noticed), "noticed here")
        help = f"write the `{grammar().signs[BRACKETS[bracket.type]]}` that ends it"
        self.mistake("LB002", f"`{bracket.text}` never closed", self.span(bracket), labels=labels, help=help)

    def close(self, token: Token) -> bool:
        """Pop the bracket that `token` closes; False when it closes nothing and is dropped."""
        wanted = _CLOSES[token.type]
        if any(bracket.token.type == wanted for bracket in self.brackets):
            while self.brackets[-1].token.type != wanted:
                self.unclosed(self.brackets.pop().token, token)
            self.prefixes = self.brackets.pop().prefixes
            return True
        span = self.span(token)
        if self.brackets:
            top, _, self.prefixes = self.brackets.pop()
            opened = Label(self.span(top), "opened here")
            message = f"`{top.text}` closed by `{token.text}`"
            self.mistake("LB003", message, span, labels=opened, help="brackets close in pairs")
        else:
            # `swa(window=512))` at the end of a statement: the second bracket can be removed safely.
            twice = self.previous.type == token.type and _END_OF_STATEMENT.match(self.source.text, token.end)
            fix = Fix("remove it", (Edit(span, ""),)) if twice else None
            self.mistake("LB003", f"`{token.text}` closes nothing", span, help="open it before, or remove it", fix=fix)
        return False

    def take(self, token: Token) -> None:
        """Add a token; limit the nesting of brackets and prefix operators, and so the depth of the tree."""
        previous = self.previous
        self.current.append(token)
        if token.type in BRACKETS:
            inline = token.type != "LBRACE" or previous.type == "IN"
            self.brackets.append(_Bracket(token, inline, self.prefixes))
            self.prefixes = 0
        elif token.type in ("NOT", "MINUS") and previous.type not in OPERANDS:
            self.prefixes += 1
        elif token.type not in _CLOSES:
            self.prefixes = 0
            return
        depth = len(self.brackets) + self.prefixes + sum(bracket.prefixes for bracket in self.brackets[:MAX_DEPTH])
        if depth > MAX_DEPTH:
            limit = f"brackets, `not` and signs together may be nested at most {MAX_DEPTH} deep"
            help = f"{limit}; name parts with `let` or `group`"
            self.mistake("LB005", f"nesting deeper than {MAX_DEPTH}", self.span(token), help=help)

    def check_number(self, token: Token, following: Token) -> None:
        digits = sum(char.isdigit() for char in token.text)
        if digits > MAX_DIGITS:
            help = f"a number may have at most {MAX_DIGITS} digits"
            self.mistake("LB006", f"number with {digits} digits", self.span(token), help=help)
        elif following.start == token.end and following.type in ("NAME", "DOTTED", "KEY"):
            whole = Span(self.source, token.start, following.end)
            before = self.current[-2].type if len(self.current) > 1 else ""
            # Arguments and settings count tokens; bytes are compared.
            in_bytes = before not in ("EQUAL", "LPAR") or self.current[0].type == "PARAM"
            found = readings(whole.text, compared=before == "COMPARE", in_bytes=in_bytes)
            prefixes = "prefixes are `k M G` (decimal) and `Ki Mi Gi` (binary)"
            units = "units are `B`, `%` and ` tokens`; seconds have none: `0.05`"
            hints = readings_text(found) if found else (prefixes, units)
            write = next(iter(found)) if len(found) == 1 else None
            self.mistake("LB007", f"`{whole.text}` is not a number", whole, help=hints, write=write)
