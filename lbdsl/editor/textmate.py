"""The TextMate grammar of recipes: `python -m lbdsl.editor.textmate` writes it to the VS Code extension's folder.

It is made from the parser's keywords and terminals. It does not list actions and metrics, which plug-ins can add: any
other name is highlighted as a function.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lbdsl.core.resources import resource_folder
from lbdsl.language.grammar import grammar
from lbdsl.language.words import OPERATORS, keywords
from lbdsl.recipe.variables import TYPES

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"


def textmate_grammar() -> dict[str, Any]:
    """The grammar as JSON data. Patterns are tried in order at each position; the first that matches wins."""
    numbers = grammar().terminals  # the regexes of numbers mean the same in Python and Oniguruma
    statements = [word for word, keyword in keywords().items() if keyword.form]
    words = keywords().keys() - OPERATORS - set(statements)
    return {
        "name": "lbdsl recipe",
        "scopeName": "source.lbr",
        "fileTypes": ["lbr"],
        "patterns": [
            _match("comment.line.number-sign", "#.*$"),
            _quoted("string.regexp", '~"', _match("constant.character.escape", r"\\.")),
            _quoted(
                "string.quoted.double",
                '"',
                _match("constant.character.escape", r'\\[\\"nt]'),
                _match("invalid.illegal.escape", r"\\."),
            ),
            {
                "match": rf"(:)\s*({'|'.join(sorted(TYPES))})\b",
                "captures": {"1": {"name": "punctuation.separator.lbr"}, "2": {"name": "storage.type.lbr"}},
            },
            _match("variable.other", rf"\${_NAME}"),
            _match("entity.name.tag.group", rf"@{_NAME}"),
            _match("support.variable.fact", rf"{_NAME}(?:\.{_NAME})+"),
            _match("variable.parameter", rf"{_NAME}(?=\s*=(?!=))"),
            *(_match("constant.numeric", numbers[kind]) for kind in ("PERCENT", "QUANTITY", "DECIMAL", "INT")),
            _match("keyword.control", _any_of(statements)),
            _match("keyword.operator.word", _any_of(OPERATORS)),
            _match("keyword.other", _any_of(words)),
            _match("entity.name.function", _NAME),
            _match("keyword.operator", r"<=|>=|==|!=|\.\.|[<>=+*/-]"),
            _match("punctuation", r"[(){}\[\],;:]"),
        ],
    }


def _match(name: str, match: str) -> dict[str, Any]:
    return {"name": f"{name}.lbr", "match": match}


def _quoted(name: str, begin: str, *inside: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"{name}.lbr", "begin": begin, "end": '"|$', "patterns": list(inside)}


def _any_of(words: Any) -> str:
    return rf"\b(?:{'|'.join(sorted(words))})\b"


def grammar_text() -> str:
    """The grammar file's text."""
    return json.dumps(textmate_grammar(), indent=2) + "\n"


def grammar_file() -> Path:
    """The path of the grammar file in a source tree."""
    return resource_folder("grammars").parent / "editors" / "vscode" / "lbr.tmLanguage.json"


def main() -> None:
    """Write the grammar to its file."""
    grammar_file().write_text(grammar_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
