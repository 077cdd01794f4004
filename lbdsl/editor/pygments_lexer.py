"""Pygments lexer for recipes, which Sphinx, MkDocs and rich use too; its alias is `lbr`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pygments.lexer import Lexer

from lbdsl.language.highlight import pieces


class LbrLexer(Lexer):
    """Pygments lexer for lbdsl recipes. It uses the same tokens as the parser."""

    name = "lbdsl recipe"
    aliases = ["lbr", "lbdsl"]
    filenames = ["*.lbr"]
    mimetypes = ["text/x-lbr"]

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, Any, str]]:
        return pieces(text)
