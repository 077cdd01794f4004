"""Pygments lexer for recipes, which Sphinx, MkDocs and rich use too; its alias is `lbr`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pygments import token
from pygments.lexer import Lexer

from lbdsl.language.highlight import TextRole, pieces

_TOKENS = {
    TextRole.STATEMENT: token.Keyword.Declaration,
    TextRole.KEYWORD: token.Keyword,
    TextRole.WORD_OPERATOR: token.Operator.Word,
    TextRole.ACTION: token.Name.Function,
    TextRole.METRIC: token.Name.Builtin,
    TextRole.NAME: token.Name,
    TextRole.TYPE: token.Keyword.Type,
    TextRole.FACT: token.Name.Attribute,
    TextRole.KEY: token.Name.Attribute,
    TextRole.VARIABLE: token.Name.Variable,
    TextRole.GROUP: token.Name.Label,
    TextRole.NUMBER: token.Number,
    TextRole.STRING: token.String.Double,
    TextRole.REGEX: token.String.Regex,
    TextRole.OPERATOR: token.Operator,
    TextRole.PUNCTUATION: token.Punctuation,
    TextRole.COMMENT: token.Comment.Single,
    TextRole.SPACE: token.Whitespace,
    TextRole.ERROR: token.Error,
}


class LbrLexer(Lexer):
    """Pygments lexer for lbdsl recipes. It uses the same tokens as the parser."""

    name = "lbdsl recipe"
    aliases = ["lbr", "lbdsl"]
    filenames = ["*.lbr"]
    mimetypes = ["text/x-lbr"]

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, Any, str]]:
        for piece in pieces(text):
            yield piece.start, _TOKENS[piece.role], piece.text
