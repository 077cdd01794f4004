"""The recipe grammar as tables of Lark's LALR parser: read from the shipped file, else built from `grammars/lbr.lark`.

Building the tables takes longer than a whole `check` may take. So `lbr.tables.json` holds Lark's serialized tables as plain
data; `PYTHONHASHSEED=0 python -m lbdsl.language.grammar` writes it. The file is used only with the same grammar text and
the same Lark release series (major.minor); otherwise the tables are rebuilt in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef
from lark.parsers.lalr_analysis import IntParseTable
from lark.utils import SerializeMemoizer

from lbdsl.core.digest import digest_text
from lbdsl.core.resources import resource_folder

GRAMMAR = "lbr.lark"
TABLES = "lbr.tables.json"
START = "stmt"


class Grammar(NamedTuple):
    """The data of the statement parser."""

    table: IntParseTable

    terminals: Mapping[str, str]
    """The regular expression of each terminal that is not a keyword, in the order in which Lark's lexer tries them."""

    keywords: frozenset[str]
    """The reserved words; the terminal of each is the word in upper case."""

    signs: Mapping[str, str]
    """The text of each terminal that matches only one text."""

    ignored: frozenset[str]


@cache
def grammar() -> Grammar:
    folder = resource_folder("grammars")
    text = Path(folder, GRAMMAR).read_text(encoding="utf-8")
    file = Path(folder, TABLES)
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if data.get("made_of") != _made_of(text):
        data = json.loads(tables_text(text))
    rules = SerializeMemoizer.deserialize(_int_keys(data["rules"]), {"Rule": Rule}, {})
    table = data["table"] | {"states": _int_keys(data["table"]["states"])}
    return Grammar(
        IntParseTable.deserialize(table, rules),
        data["terminals"],
        frozenset(data["keywords"]),
        data["signs"],
        frozenset(data["ignored"]),
    )


def tables_text(text: str) -> str:
    """The content of the tables file for a grammar's text."""
    made: Any = Lark(text, parser="lalr", lexer="basic", start=START, maybe_placeholders=False).parser
    table, rules = made.parser.memo_serialize([Rule])
    every: list[TerminalDef] = made.lexer.terminals
    keywords = sorted(t.pattern.value for t in every if t.pattern.value.isidentifier())
    terminals = [t for t in every if t.pattern.value not in keywords]
    data = {
        "made_of": _made_of(text),
        "ignored": made.lexer_conf.ignore,
        "keywords": keywords,
        "signs": {t.name: t.pattern.value for t in terminals if t.pattern.type == "str"},
        "terminals": {t.name: t.pattern.to_regexp() for t in terminals},
        "rules": rules,
        "table": table,
    }
    return json.dumps(data, separators=(",", ":")) + "\n"


def _made_of(text: str) -> str:
    return f"{digest_text(text)} lark {'.'.join(lark.__version__.split('.')[:2])}"


def _int_keys(data: dict[str, Any]) -> dict[int, Any]:
    """The same data with integer keys, which JSON turns into strings."""
    return {int(key): value for key, value in data.items()}


def main() -> None:
    folder = resource_folder("grammars")
    text = Path(folder, GRAMMAR).read_text(encoding="utf-8")
    Path(folder, TABLES).write_text(tables_text(text), encoding="utf-8")


if __name__ == "__main__":
    main()
