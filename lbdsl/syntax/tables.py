"""Makes `grammars/lbr.tables.json` from `grammars/lbr.lark`: `python -m lbdsl.syntax.tables`.

Building LALR tables takes longer than checking a recipe does, so they are made once and shipped, as plain JSON. This
module is the only one that imports lark, and nothing imports it when a recipe is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lbdsl.core.digest import digest_text
from lbdsl.core.resources import resource_folder
from lbdsl.syntax.names import GRAMMAR, TABLES


def make_tables(grammar: str) -> dict[str, Any]:
    """The tables of a grammar, as JSON data.

    terminals  [name, regular expression], in the order they are tried
    keywords   text -> terminal, for names that are reserved
    ignore     terminals that never reach the parser
    rules      [nonterminal, node name, symbols, indices kept as children, kind]; the kind is "node", "splice" (its
               children go into the parent) or "single" (a lone child stands for it)
    states     one map each: symbol -> next state, or -1 - rule to reduce by
    start, end the first state of a statement, and the state that accepts it
    """
    from lark import Lark
    from lark.parsers.lalr_analysis import Shift

    lark = Lark(grammar, parser="lalr", lexer="basic", strict=True, start="stmt", maybe_placeholders=False)
    table = lark.parser.parser._parse_table
    lexer = lark.parser.lexer
    words = [t for t in lexer.terminals if t.pattern.type == "str" and t.pattern.value.isidentifier()]
    rules = sorted(lark.rules, key=lambda rule: (rule.origin.name, str(rule.expansion), rule.alias or ""))
    number = {rule: index for index, rule in enumerate(rules)}
    order = _reachable(table.states, table.start_states["stmt"], Shift)
    position = {state: index for index, state in enumerate(order)}

    def code(action: Any, argument: Any) -> int:
        return position[argument] if action is Shift else -1 - number[argument]

    return {
        "grammar": digest_text(grammar),
        "terminals": [[t.name, _possessive(t.pattern.to_regexp())] for t in lexer.terminals if t not in words],
        "keywords": {t.pattern.value: t.name for t in sorted(words, key=lambda t: t.name)},
        "ignore": sorted(lark.ignore_tokens),
        "rules": [_rule(rule) for rule in rules],
        "states": [{symbol: code(*entry) for symbol, entry in sorted(table.states[state].items())} for state in order],
        "start": position[table.start_states["stmt"]],
        "end": position[table.end_states["stmt"]],
    }


def _possessive(regex: str) -> str:
    """The loop of a quoted text never gives back a character: what ends it cannot be part of it. Without this the matcher
    keeps a place to return to for every character, 450 bytes each."""
    return regex.removesuffix(')*"') + ')*+"' if regex.endswith(')*"') else regex


def _reachable(states: Any, start: int, shift: Any) -> list[int]:
    """States in the order that a walk over sorted symbols meets them: the same numbers in every process."""
    order, seen = [start], {start}
    for state in order:
        for _, (action, argument) in sorted(states[state].items()):
            if action is shift and argument not in seen:
                seen.add(argument)
                order.append(argument)
    return order


def _rule(rule: Any) -> list[Any]:
    name = rule.origin.name
    kept = [
        index
        for index, symbol in enumerate(rule.expansion)
        if rule.options.keep_all_tokens or not (symbol.is_term and symbol.filter_out)
    ]
    kind = "splice" if name.startswith("_") else "single" if rule.options.expand1 and not rule.alias else "node"
    return [name, rule.alias or name, len(rule.expansion), kept, kind]


def tables_text(grammar: str) -> str:
    """The file's text."""
    return json.dumps(make_tables(grammar), separators=(",", ":"), ensure_ascii=True) + "\n"


def main() -> None:
    folder = resource_folder("grammars")
    text = tables_text(Path(folder, GRAMMAR).read_text(encoding="utf-8"))
    Path(folder, TABLES).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
