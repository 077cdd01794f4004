"""Format the text of a recipe canonically: `format_text`.

One statement per line, one space around operators, `swa(window=512, sinks=4)`. A block is on one line if it fits in 100
columns and has no comment, else one setting per line, indented by four. Several blank lines between statements become
one. Trailing commas are removed. Comments stay in place; parentheses, numbers and strings stay as written. Lines end
with `\\n`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, has_errors
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.format_pieces import SEPARATORS, SPACES, Comment, Piece, pieces_of
from lbdsl.language.lexer import lex
from lbdsl.language.parse import parse

WIDTH = 100
INDENT = 4


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

_CLAUSES = ("BECAUSE", "UNTIL", "WHILE", "EXCEPT", "AMONG", "MINIMIZING", "SUBJECT")
_RANK_BEFORE = {**dict.fromkeys(_CLAUSES, 0), "OR": 1, "AND": 2, "PLUS": 4}
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
