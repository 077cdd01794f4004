"""Canonical text of a recipe: `format_text`.

One statement a line, one space around operators, `swa(window=512, sinks=4)`, a block on one line when it fits in 100
columns and holds no comment, else one setting a line, indented by four. Blank lines between statements stay, at most one
together. Commas that end a list go. Comments stay where they are; parentheses, numbers and texts as they are written.
Lines end with `\\n` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby, pairwise

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.span import Source
from lbdsl.language import tree
from lbdsl.language.format_pieces import SEPARATORS, SPACES, Comment, Piece, pieces_of
from lbdsl.language.parse import parse

WIDTH = 100
INDENT = 4


def format_text(text: str, name: str = "<string>", *, actions: Collection[str] = ()) -> Diagnosed[str]:
    """The canonical text. None, with the errors, when the text does not parse; `actions` are as for `parse`.

    What is returned parses to the same tree and holds the same comments in the same order: LB040, a bug of lbdsl, if
    ever it would not. `format_text(format_text(x)) == format_text(x)`.
    """
    source = Source(name, text.removeprefix("\ufeff").replace("\r\n", "\n"))
    parsed = parse(source, actions=actions)
    if parsed.value is None or any(found.is_error for found in parsed.diagnostics):
        return Diagnosed(None, parsed.diagnostics)
    new = format_parsed(parsed.value)
    return Diagnosed(new.value, (*parsed.diagnostics, *new.diagnostics))


def format_parsed(file: tree.File) -> Diagnosed[str]:
    """The canonical text of a file that was parsed without errors."""
    new = _text_of(file.source)
    problem = _difference(file, new)
    return Diagnosed(None, (problem,)) if problem else Diagnosed(new)


def canonical_part(before: str, text: str) -> str:
    """A part of a statement on one line, as it is written after `before`: `"let $n = "`, which is canonical itself."""
    _, (pieces,) = pieces_of(Source("", before + text))
    return _flat(pieces).removeprefix(before)


def _text_of(source: Source) -> str:
    head, statements = pieces_of(source)
    return "".join(line + "\n" for line in _followed([], head, statements, 0))


def _comments(file: tree.File) -> list[str]:
    return [span.text.rstrip(SPACES) for span in file.comments]


def _difference(old: tree.File, new: str) -> Diagnostic | None:
    """LB040 when the new text says something else than the old tree."""
    again = parse(Source(old.source.name, new))
    span = None
    if again.value is None or any(found.is_error for found in again.diagnostics):
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
    """`lines` with what follows them: the comments of the piece that ends them, and statements with theirs."""
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
    """The lines of a statement or setting, indented by `column`; the comments after its last piece are not among them."""
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
    """What stands between the separators of a block; those of a block inside it are deeper."""
    depth = min((piece.depth for piece in body), default=0)
    between = groupby(body, lambda piece: piece.kind in SEPARATORS and piece.depth == depth)
    return [list(item) for separators, item in between if not separators]


# Long lines ----------------------------------------------------------------------------------------------------------
# A break is only where a newline ends no statement (all listed here are among the tokens of `lbdsl.language.layout`), and
# as far outside as it can: before `because` and `until` first, then after commas and before `or`, then before `and`, and so
# inwards, bracket by bracket.

_CLAUSES = ("BECAUSE", "UNTIL", "WHILE", "EXCEPT", "AMONG", "MINIMIZING", "SUBJECT")
_RANK_BEFORE = {**dict.fromkeys(_CLAUSES, 0), "OR": 1, "AND": 2, "PLUS": 4}
_RANK_AFTER = {"COMMA": 1, "COMPARE": 3, "MINUS": 4, "TIMES": 5, "OVER": 5}
_RANKS = 6


def _rows(pieces: Sequence[Piece], column: int) -> list[str]:
    """Lines of pieces without a block. A comment inside ends its line, as it did in the source."""
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
    """Pieces on as few lines as fit: the first begins at `column`, the others at `rest`. Each line with its indent."""
    whole = _flat(pieces)
    levels = _levels(pieces) if column + len(whole) > WIDTH else {}
    if not levels:
        return [(column, whole)]
    outermost = min(levels.values())
    cuts = [0, *(index for index, level in levels.items() if level == outermost), len(pieces)]
    # Lines of a clause too long for one line stand further in than the next clause.
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
        # The last line is open: what follows may be joined to it, so it stands no further in than that.
        lines += full
        lines.append((rest if lines else column, last))
    return lines


def _levels(pieces: Sequence[Piece]) -> dict[int, int]:
    """Where a line may begin: index of its first piece -> how far inside that is."""
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
    """Whether a space stands between two pieces. That inside the braces of a block is not decided here."""
    if before.kind in _NO_SPACE_AFTER or piece.kind in _NO_SPACE_BEFORE:
        return False
    return piece.kind != "LPAR" or before.kind != "NAME"
