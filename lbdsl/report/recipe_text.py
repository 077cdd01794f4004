"""Text in the recipe language, coloured for a terminal."""

from __future__ import annotations

from rich.text import Text

from lbdsl.language.highlight import Role, pieces

_STYLES = {
    Role.STATEMENT: "bold",
    Role.KEYWORD: "bold",
    Role.WORD_OPERATOR: "bold",
    Role.ACTION: "cyan",
    Role.METRIC: "cyan",
    Role.VARIABLE: "magenta",
    Role.GROUP: "magenta",
    Role.NUMBER: "green",
    Role.STRING: "green",
    Role.REGEX: "green",
    Role.COMMENT: "dim",
}


def highlighted(text: str) -> Text:
    """The text with the colours of what its pieces are; a console without colours shows it plain."""
    line = Text()
    for piece in pieces(text):
        line.append(piece.text, style=_STYLES.get(piece.role, ""))
    return line
