"""Recipe text with syntax highlighting for a terminal."""

from __future__ import annotations

from rich.text import Text

from lbdsl.language.highlight import TextRole, pieces

_STYLES = {
    TextRole.STATEMENT: "bold",
    TextRole.KEYWORD: "bold",
    TextRole.WORD_OPERATOR: "bold",
    TextRole.ACTION: "cyan",
    TextRole.METRIC: "cyan",
    TextRole.VARIABLE: "magenta",
    TextRole.GROUP: "magenta",
    TextRole.NUMBER: "green",
    TextRole.STRING: "green",
    TextRole.REGEX: "green",
    TextRole.COMMENT: "dim",
}


def highlighted(text: str) -> Text:
    """The text with syntax highlighting; a console without colours shows it plain."""
    line = Text()
    for piece in pieces(text):
        line.append(piece.text, style=_STYLES.get(piece.role, ""))
    return line
