"""Recipes in Pygments, and so in Sphinx, MkDocs and rich: the alias is `lbr`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pygments import token
from pygments.lexer import Lexer

from lbdsl.language.highlight import Role, pieces

_TOKENS = {
    Role.STATEMENT: token.Keyword.Declaration,
    Role.KEYWORD: token.Keyword,
    Role.WORD_OPERATOR: token.Operator.Word,
    Role.ACTION: token.Name.Function,
    Role.METRIC: token.Name.Builtin,
    Role.NAME: token.Name,
    Role.TYPE: token.Keyword.Type,
    Role.FACT: token.Name.Attribute,
    Role.KEY: token.Name.Attribute,
    Role.VARIABLE: token.Name.Variable,
    Role.GROUP: token.Name.Label,
    Role.NUMBER: token.Number,
    Role.STRING: token.String.Double,
    Role.REGEX: token.String.Regex,
    Role.OPERATOR: token.Operator,
    Role.PUNCTUATION: token.Punctuation,
    Role.COMMENT: token.Comment.Single,
    Role.SPACE: token.Whitespace,
    Role.ERROR: token.Error,
}


class LbrLexer(Lexer):
    """Pygments lexer of lbdsl's recipes. It cuts the text as the parser does."""

    name = "lbdsl recipe"
    aliases = ["lbr", "lbdsl"]
    filenames = ["*.lbr"]
    mimetypes = ["text/x-lbr"]

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, Any, str]]:
        for piece in pieces(text):
            yield piece.start, _TOKENS[piece.role], piece.text
