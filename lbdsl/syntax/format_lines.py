"""One statement's pieces to lines: where spaces stand, and where a long line is broken.

A break stands only where a newline ends no statement (`lbdsl.syntax.layout`), and as far outside as it can: before
`because` and `until` first, then after commas and before `or`, then before `and`, and so inwards, bracket by bracket.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lbdsl.syntax.format_pieces import CLOSES, OPENS, SEPARATORS, Piece
from lbdsl.syntax.layout import CONTINUES_AFTER, CONTINUES_BEFORE, ONLY_BEGINS

WIDTH = 100
INDENT = 4

_CLAUSES = ("BECAUSE", "UNTIL", "WHILE", "EXCEPT", "AMONG", "MINIMIZING", "SUBJECT")
_RANK_BEFORE = {**dict.fromkeys(_CLAUSES, 0), "OR": 1, "AND": 2, "PLUS": 4}
_RANK_AFTER = {"COMMA": 1, "COMPARE": 3, "MINUS": 4, "TIMES": 5, "OVER": 5}
_RANKS = 6


def statement_lines(pieces: Sequence[Piece], column: int = 0) -> list[str]:
    """The lines of a statement or setting, indented by `column`; the comments after its last piece are not among them."""
    opening = next((i for i, piece in enumerate(pieces) if piece.kind == "LBRACE" and piece.role != "domain"), None)
    if opening is None:
        return _rows(pieces, column)
    closing = _closing(pieces, opening)
    head, body, tail = pieces[: opening + 1], pieces[opening + 1 : closing], pieces[closing:]
    items = _items(body)
    if not any(piece.comments for piece in pieces[:closing]):
        line = " " * column + _flat(head) + _one_line(items) + _flat(tail)
        if len(line) <= WIDTH:
            return [line]
    lines = _rows(head, column)
    inner = column + INDENT
    _append_comments(lines, head[-1], inner, first=True)
    for number, item in enumerate(items):
        if item[0].gap and (number or head[-1].comments):
            lines.append("")
        lines += statement_lines(item, inner)
        _append_comments(lines, item[-1], inner)
    return [*lines, " " * column + _flat(tail)]


def _one_line(items: Sequence[Sequence[Piece]]) -> str:
    return f" {'; '.join(' '.join(statement_lines(item)) for item in items)} " if items else ""


def _append_comments(lines: list[str], piece: Piece, column: int, *, first: bool = False) -> None:
    """The comments after a piece that ends the last line. `first`: it opens a block, where no blank line follows."""
    for comment in piece.comments:
        if not comment.own_line:
            lines[-1] += f"  {comment.text}"
            first = False
            continue
        if comment.gap and not first:
            lines.append("")
        lines.append(" " * column + comment.text)
        first = False


def _closing(pieces: Sequence[Piece], opening: int) -> int:
    depth = 0
    for index in range(opening, len(pieces)):
        depth += (pieces[index].kind in OPENS) - (pieces[index].kind in CLOSES)
        if depth == 0:
            return index
    raise AssertionError("brackets of a text that parsed are closed")


def _items(body: Sequence[Piece]) -> list[list[Piece]]:
    """What stands between the separators of a block."""
    items: list[list[Piece]] = [[]]
    depth = 0
    for piece in body:
        if piece.kind in SEPARATORS and depth == 0:
            items.append([])
            continue
        depth += (piece.kind in OPENS) - (piece.kind in CLOSES)
        items[-1].append(piece)
    return [item for item in items if item]


def _rows(pieces: Sequence[Piece], column: int) -> list[str]:
    """Lines of pieces without a block. A comment inside ends its line, as it did in the source."""
    lines: list[str] = []
    start, depth = 0, 0
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        if not (piece.comments or last):
            continue
        row = pieces[start : index + 1]
        shift = column + INDENT if lines else column
        lines += [" " * indent + line for indent, line in _fill(row, shift, column + INDENT, depth)]
        depth += sum((p.kind in OPENS) - (p.kind in CLOSES) for p in row)
        if not last:
            for comment in piece.comments:
                if comment.own_line:
                    lines.append(" " * (column + INDENT) + comment.text)
                else:
                    lines[-1] += f"  {comment.text}"
        start = index + 1
    return lines


def _fill(pieces: Sequence[Piece], column: int, rest: int, depth: int) -> list[tuple[int, str]]:
    """Pieces on as few lines as fit: the first begins at `column`, the others at `rest`. Each line with its indent."""
    whole = _flat(pieces)
    if column + len(whole) <= WIDTH:
        return [(column, whole)]
    levels = _levels(pieces, depth)
    if not levels:
        return [(column, whole)]
    outermost = min(levels.values())
    cuts = [0, *(index for index, level in levels.items() if level == outermost), len(pieces)]
    lines: list[tuple[int, str]] = []
    pending = ""
    for begin, end in pairwise(cuts):
        part = pieces[begin:end]
        text = _flat(part)
        indent = rest if lines else column
        if pending:
            space = " " if _spaced(pieces[begin - 1], part[0]) else ""
            if indent + len(pending) + len(space) + len(text) <= WIDTH:
                pending += space + text
                continue
            lines.append((indent, pending))
            pending, indent = "", rest
        if indent + len(text) <= WIDTH:
            pending = text
        else:
            # Lines of a clause too long for one line stand further in than the next clause.
            further = rest + (INDENT if outermost % _RANKS == 0 else 0)
            *full, (_, pending) = _fill(part, indent, further, outermost // _RANKS)
            lines += full
    lines.append((rest if lines else column, pending))
    return lines


def _levels(pieces: Sequence[Piece], depth: int) -> dict[int, int]:
    """Where a line may begin: index of its first piece -> how far inside that is."""
    levels: dict[int, int] = {}
    for index, piece in enumerate(pieces):
        if piece.kind in CLOSES:
            depth -= 1
        if index:
            before = pieces[index - 1]
            rank = _RANK_BEFORE.get(piece.kind)
            if rank is None and not before.role:
                rank = _RANK_AFTER.get(before.kind)
            if rank is not None and _may_begin(before, piece, inside=depth > 0):
                levels[index] = depth * _RANKS + rank
        if piece.kind in OPENS:
            depth += 1
    return levels


def _may_begin(before: Piece, piece: Piece, *, inside: bool) -> bool:
    """Whether a newline between two pieces ends nothing."""
    if piece.kind in ONLY_BEGINS:
        return False
    return inside or before.kind in CONTINUES_AFTER or piece.kind in CONTINUES_BEFORE


def _flat(pieces: Sequence[Piece]) -> str:
    """All pieces on one line."""
    parts: list[str] = []
    before: Piece | None = None
    for piece in pieces:
        if before is not None and _spaced(before, piece):
            parts.append(" ")
        parts.append(piece.text)
        before = piece
    return "".join(parts)


def _spaced(before: Piece, piece: Piece) -> bool:
    """Whether a space stands between two pieces. That inside the braces of a block is `_one_line`'s."""
    if before.kind in ("LPAR", "LSQB", "LBRACE") or piece.kind in ("RPAR", "RSQB", "RBRACE", "COMMA", "COLON"):
        return False
    if piece.kind == "_DOTS" or before.kind == "_DOTS" or before.role == "sign":
        return False
    if "range" in (piece.role, before.role) or "argument" in (piece.role, before.role):
        return False
    return piece.kind != "LPAR" or before.kind != "NAME"
