"""Canonical text of a recipe: `format_text`.

One statement a line, one space around operators, `swa(window=512, sinks=4)`, a block on one line when it fits in 100
columns and holds no comment, else one setting a line, indented by four. Blank lines between statements stay, at most one
together. Commas that end a list go. Comments stay where they are; parentheses, numbers and texts as they are written.
Lines end with `\\n` alone.
"""

from __future__ import annotations

from collections.abc import Collection

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error
from lbdsl.core.span import Source, Span
from lbdsl.syntax import tree
from lbdsl.syntax.format_lines import statement_lines
from lbdsl.syntax.format_pieces import Comment, Piece, pieces_of
from lbdsl.syntax.parse import parse


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
    new = _text_of(file.source, file)
    problem = _difference(file, new)
    return Diagnosed(None, (problem,)) if problem else Diagnosed(new)


def _text_of(source: Source, file: tree.File) -> str:
    lines: list[str] = []
    pieces = pieces_of(source, file.statements)
    _append(lines, pieces.head)
    for statement in pieces.statements:
        if statement[0].gap and lines:
            lines.append("")
        lines += statement_lines(_without_last_commas(statement))
        _append(lines, statement[-1].comments)
    return "".join(line + "\n" for line in lines)


def _append(lines: list[str], comments: tuple[Comment, ...]) -> None:
    """Comments between statements, the first perhaps at the end of the line above."""
    for comment in comments:
        if not comment.own_line:
            lines[-1] += f"  {comment.text}"
            continue
        if comment.gap and lines:
            lines.append("")
        lines.append(comment.text)


def _without_last_commas(pieces: list[Piece]) -> list[Piece]:
    """The pieces without a comma before a closing bracket; its comments go to the piece before it."""
    kept: list[Piece] = []
    for piece in pieces:
        if piece.kind in ("RPAR", "RSQB") and kept[-1].kind == "COMMA":
            comments = kept.pop().comments
            if kept[-1].comments:
                comments = tuple(comment._replace(own_line=True) for comment in comments)
            kept[-1] = kept[-1]._replace(comments=kept[-1].comments + comments)
        kept.append(piece)
    return kept


def _difference(old: tree.File, new: str) -> Diagnostic | None:
    """LB040 when the new text says something else than the old tree."""
    again = parse(Source(old.source.name, new))
    what, span = "", None
    if again.value is None or any(found.is_error for found in again.diagnostics):
        what = "no longer parses"
    elif again.value.statements != old.statements:
        what = "means something else"
        pairs = zip(old.statements, again.value.statements, strict=False)
        span = next((before.span for before, after in pairs if before != after), None)
    elif [_comment(span) for span in again.value.comments] != [_comment(span) for span in old.comments]:
        what = "has other comments"
    if not what:
        return None
    return error(
        "LB040",
        f"the formatted text {what}; nothing is written",
        span,
        help="this is a bug of lbdsl; please report it with the recipe",
    )


def _comment(span: Span) -> str:
    return span.text.rstrip(" \t\r\f\ufeff")
