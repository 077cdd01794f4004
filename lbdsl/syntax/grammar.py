"""The grammar of recipes as Lark's LALR parser: made of `grammars/lbr.lark`, quickly where its tables are shipped.

Lark takes longer to make LALR tables than a whole check may take. So `lbr.tables.json` holds what Lark serializes, as plain
data; `PYTHONHASHSEED=0 python -m lbdsl.syntax.grammar` writes it. It counts only for the very grammar and the series of
Lark that made it: with another of either, Lark makes the tables anew, in memory.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from lbdsl.core.digest import digest_text
from lbdsl.core.resources import resource_folder

GRAMMAR = "lbr.lark"
TABLES = "lbr.tables.json"


@cache
def grammar() -> Lark:
    """The parser of a statement."""
    folder = resource_folder("grammars")
    text = Path(folder, GRAMMAR).read_text(encoding="utf-8")
    tables = Path(folder, TABLES)
    shipped: dict[str, Any] = json.loads(tables.read_text(encoding="utf-8")) if tables.is_file() else {}
    if shipped.get("made_of") != _made_of(text):
        return _built(text)
    memo, states = shipped["memo"], shipped["data"]["parser"]["parser"]
    states["states"] = _int_keys(states["states"])
    return Lark._load_from_dict(shipped["data"], _int_keys(memo))


@cache
def terminals() -> dict[str, str]:
    """The regular expression of each terminal that is no keyword, in the order in which Lark's lexer tries them."""
    ordered: list[TerminalDef] = grammar().parser.lexer.terminals
    return {t.name: t.pattern.to_regexp() for t in ordered if not t.pattern.value.isidentifier()}


def tables_text(text: str) -> str:
    """What is shipped for a grammar's text."""
    data, memo = _built(text).memo_serialize([TerminalDef, Rule])
    return json.dumps({"made_of": _made_of(text), "data": data, "memo": memo}, separators=(",", ":")) + "\n"


def _made_of(text: str) -> str:
    return f"{digest_text(text)} lark {'.'.join(lark.__version__.split('.')[:2])}"


def _built(text: str) -> Lark:
    return Lark(text, parser="lalr", lexer="basic", start="stmt", maybe_placeholders=False)


def _int_keys(data: dict[str, Any]) -> dict[int, Any]:
    """JSON has no numbers as keys."""
    return {int(key): value for key, value in data.items()}


def main() -> None:
    folder = resource_folder("grammars")
    text = Path(folder, GRAMMAR).read_text(encoding="utf-8")
    Path(folder, TABLES).write_text(tables_text(text), encoding="utf-8")


if __name__ == "__main__":
    main()
