"""Format the text of a recipe canonically: `format_text`.

One statement per line, one space around operators, `swa(window=512, sinks=4)`. A block is on one line if it fits in 100
columns and has no comment, else one setting per line, indented by four. Several blank lines between statements become
one. Trailing commas are removed. Comments stay in place; parentheses, numbers and strings stay as written. Lines end
with `\\n`.

The text is lexed again, and every comment belongs to the last token before it that is not a separator.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import groupby, pairwise

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, has_errors
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.layout import CONTINUES_BEFORE, OPERANDS, split_statements
from lbdsl.language.lexer import BRACKETS, lex
from lbdsl.language.parse import parse

WIDTH = 100
INDENT = 4

SEPARATORS = frozenset({"NEWLINE", "SEMICOLON"})
SPACES = " \t\r\f\ufeff"
_BLANK_LINE = re.compile(rf"\n[{SPACES}]*\n")


def format_text(text: str, name: str = "<string>") -> Diagnosed[str]:
    """The canonical text; None, with the errors, when the text does not parse.

    The result parses to the same tree and has the same comments in the same order; otherwise the error is LB040, a bug in
    lbdsl. `format_text(format_text(x)) == format_text(x)`.
    """
    source = Source(name, text.removeprefix("\ufeff").replace("\r\n", "\n"))
    parsed = parse(source)
    if not parsed.ok:
        return Diagnosed(None, parsed.diagnostics)
    new = format_parsed(parsed.unwrap())
    return Diagnosed(new.value, (*parsed.diagnostics, *new.diagnostics))


def format_parsed(file: tree.File) -> Diagnosed[str]:
    """The canonical text of a file that was parsed without errors."""
    head, statements = pieces_of(file.source)
    new = "".join(line + "\n" for line in _followed([], head, statements, 0))
    problem = _difference(file, new)
    return Diagnosed(None, (problem,)) if problem else Diagnosed(new)


def canonical_part(before: str, text: str) -> str:
    """`text` formatted on one line as a continuation of `before`, which must be canonical, such as `"let $n = "`."""
    lexed = lex(text)
    breaks = [*lexed.comments, *(token for token in lexed.tokens if token.type == "NEWLINE")]
    # Lines may break within brackets that are not part of the text.
    for token in sorted(breaks, key=lambda token: -token.start):
        text = f"{text[: token.start]} {text[token.end :]}"
    _, (pieces,) = pieces_of(Source("", before + text))
    return _flat(pieces).removeprefix(before)


def _comments(file: tree.File) -> list[str]:
    return [span.text.rstrip(SPACES) for span in file.comments]


def _difference(old: tree.File, new: str) -> Diagnostic | None:
    """LB040 when the new text does not parse to the old tree and comments; else None."""
    again = parse(Source(old.source.name, new))
    span = None
    if again.value is None or has_errors(again.diagnostics):
        what = "no longer parses"
    elif again.value.statements != old.statements:
        what = "means something else"
        pairs = zip(old.statements, again.value.statements, strict=False)
        span = next((before.span for before, after in pairs if before != after), None)
    elif _comments(again.value) != _comments(old):
        what = "has other comments"
    else:
        return None
    help = "this is a bug of lbdsl; please report it with the recipe"
    return error("LB040", f"the formatted text {what}; nothing is written", span, help=help)


# Statements and comments to lines ------------------------------------------------------------------------------------


def _followed(lines: list[str], opening: Piece, statements: Sequence[Sequence[Piece]], column: int) -> list[str]:
    """`lines`, extended by the comments of `opening`, their last piece, and by the statements with their comments."""
    entries: list[Comment | Sequence[Piece]] = [*opening.comments]
    for statement in statements:
        entries += [statement, *statement[-1].comments]
    for number, entry in enumerate(entries):
        first = entry if isinstance(entry, Comment) else entry[0]
        if first.gap and number:
            lines.append("")
        if isinstance(entry, Comment):
            _add_comment(lines, entry, column)
        else:
            lines += _statement_lines(entry, column)
    return lines


def _add_comment(lines: list[str], comment: Comment, column: int) -> None:
    if comment.own_line:
        lines.append(" " * column + comment.text)
    else:
        lines[-1] += f"  {comment.text}"


def _statement_lines(pieces: Sequence[Piece], column: int) -> list[str]:
    """The lines of a statement or setting, indented by `column`, without the comments after its last piece."""
    opening = next((index for index, piece in enumerate(pieces) if piece.kind == "LBRACE"), None)
    if opening is None:
        return _rows(pieces, column)
    head, body, closing = pieces[: opening + 1], pieces[opening + 1 : -1], pieces[-1]
    items = _items(body)
    if not any(piece.comments for piece in pieces[:-1]):
        inner = f" {'; '.join(' '.join(_statement_lines(item, 0)) for item in items)} " if items else ""
        line = " " * column + _flat(head) + inner + closing.text
        if len(line) <= WIDTH:
            return [line]
    lines = _followed(_rows(head, column), head[-1], items, column + INDENT)
    return [*lines, " " * column + closing.text]


def _items(body: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of a block, split at its own separators; those of a nested block are deeper."""
    depth = min((piece.depth for piece in body), default=0)
    between = groupby(body, lambda piece: piece.kind in SEPARATORS and piece.depth == depth)
    return [list(item) for separators, item in between if not separators]


# Long lines ----------------------------------------------------------------------------------------------------------
# Lines break only where a newline does not end the statement (each token here is in the sets of `lbdsl.language.layout`),
# at the outermost level possible: before `because` and `until` first, then after commas and before `or`, then before `and`,
# and so on inwards, bracket by bracket.

_RANK_BEFORE = {**dict.fromkeys(CONTINUES_BEFORE, 0), "OR": 1, "AND": 2, "PLUS": 4}
_RANK_AFTER = {"COMMA": 1, "COMPARE": 3, "MINUS": 4, "TIMES": 5, "OVER": 5}
_RANKS = 6


def _rows(pieces: Sequence[Piece], column: int) -> list[str]:
    """The lines of pieces without a block. A comment ends its line, as in the source."""
    lines: list[str] = []
    start, rest = 0, column + INDENT
    for end, piece in enumerate(pieces, 1):
        if not piece.comments and end < len(pieces):
            continue
        lines += [" " * indent + line for indent, line in _fill(pieces[start:end], rest if lines else column, rest)]
        for comment in piece.comments if end < len(pieces) else ():
            _add_comment(lines, comment, rest)
        start = end
    return lines


def _fill(pieces: Sequence[Piece], column: int, rest: int) -> list[tuple[int, str]]:
    """Wrap pieces into as few (indent, line) pairs as possible; the first indent is `column`, the others are `rest`."""
    whole = _flat(pieces)
    levels = _levels(pieces) if column + len(whole) > WIDTH else {}
    if not levels:
        return [(column, whole)]
    outermost = min(levels.values())
    cuts = [0, *(index for index, level in levels.items() if level == outermost), len(pieces)]
    # The continuation lines of a long clause are indented more than the next clause.
    further = rest + (INDENT if outermost % _RANKS == 0 else 0)
    lines: list[tuple[int, str]] = []
    for begin, end in pairwise(cuts):
        part = pieces[begin:end]
        if lines:
            line = lines[-1][1] + (" " if _spaced(pieces[begin - 1], part[0]) else "") + _flat(part)
            indent = lines[-1][0]
            if indent + len(line) <= WIDTH:
                lines[-1] = (indent, line)
                continue
        *full, (_, last) = _fill(part, rest if lines else column, further)
        # The next part may be joined to the last line, so that line gets no extra indent.
        lines += full
        lines.append((rest if lines else column, last))
    return lines


def _levels(pieces: Sequence[Piece]) -> dict[int, int]:
    """Possible line breaks: index of the first piece of the new line -> nesting level; lower levels break first."""
    levels: dict[int, int] = {}
    for index, (before, piece) in enumerate(pairwise(pieces), 1):
        rank = _RANK_BEFORE.get(piece.kind, _RANK_AFTER.get(before.kind))
        if rank is not None:
            levels[index] = piece.depth * _RANKS + rank
    return levels


# Spaces --------------------------------------------------------------------------------------------------------------

_NO_SPACE_AFTER = frozenset({"LPAR", "LSQB", "LBRACE", "DOMAIN", "_DOTS", "SIGN", "DASH", "ARGUMENT"})
_NO_SPACE_BEFORE = frozenset({"RPAR", "RSQB", "RBRACE", "COMMA", "COLON", "_DOTS", "DASH", "ARGUMENT"})


def _flat(pieces: Sequence[Piece]) -> str:
    """All pieces on one line."""
    text = pieces[0].text
    for before, piece in pairwise(pieces):
        text += f" {piece.text}" if _spaced(before, piece) else piece.text
    return text


def _spaced(before: Piece, piece: Piece) -> bool:
    """Whether a space separates two pieces. `_statement_lines` adds those inside the braces of a block."""
    if before.kind in _NO_SPACE_AFTER or piece.kind in _NO_SPACE_BEFORE:
        return False
    return piece.kind != "LPAR" or before.kind != "NAME"


# Pieces --------------------------------------------------------------------------------------------------------------


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
