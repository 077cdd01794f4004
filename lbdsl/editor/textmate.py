"""The TextMate grammar of recipes: `python -m lbdsl.editor.textmate` writes it to the VS Code extension's folder.

It is made from the parser's keywords and terminals. It does not list actions and metrics, which plug-ins can add: any
other name is highlighted as a function.
"""

from __future__ import annotations

import json
import sys
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
            {"name": "comment.line.number-sign.lbr", "match": "#.*$"},
            {
                "name": "string.regexp.lbr",
                "begin": '~"',
                "end": '"|$',
                "patterns": [{"name": "constant.character.escape.lbr", "match": r"\\."}],
            },
            {
                "name": "string.quoted.double.lbr",
                "begin": '"',
                "end": '"|$',
                "patterns": [
                    {"name": "constant.character.escape.lbr", "match": r'\\[\\"nt]'},
                    {"name": "invalid.illegal.escape.lbr", "match": r"\\."},
                ],
            },
            {
                "match": rf"(:)\s*({'|'.join(sorted(TYPES))})\b",
                "captures": {"1": {"name": "punctuation.separator.lbr"}, "2": {"name": "storage.type.lbr"}},
            },
            {"name": "variable.other.lbr", "match": rf"\${_NAME}"},
            {"name": "entity.name.tag.group.lbr", "match": rf"@{_NAME}"},
            {"name": "support.variable.fact.lbr", "match": rf"{_NAME}(?:\.{_NAME})+"},
            {"name": "variable.parameter.lbr", "match": rf"{_NAME}(?=\s*=(?!=))"},
            *(
                {"name": "constant.numeric.lbr", "match": numbers[kind]}
                for kind in ("PERCENT", "QUANTITY", "DECIMAL", "INT")
            ),
            {"name": "keyword.control.lbr", "match": _any_of(statements)},
            {"name": "keyword.operator.word.lbr", "match": _any_of(OPERATORS)},
            {"name": "keyword.other.lbr", "match": _any_of(words)},
            {"name": "entity.name.function.lbr", "match": _NAME},
            {"name": "keyword.operator.lbr", "match": r"<=|>=|==|!=|\.\.|[<>=+*/-]"},
            {"name": "punctuation.lbr", "match": r"[(){}\[\],;:]"},
        ],
    }


def _any_of(words: Any) -> str:
    return rf"\b(?:{'|'.join(sorted(words))})\b"


def grammar_text() -> str:
    """The grammar file's text."""
    return json.dumps(textmate_grammar(), indent=2) + "\n"


def grammar_file() -> Path:
    """The path of the grammar file in a source tree."""
    return resource_folder("grammars").parent / "editors" / "vscode" / "lbr.tmLanguage.json"


def main() -> None:
    """Write the grammar to its file, or to the path given as argument."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else grammar_file()
    path.write_text(grammar_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
