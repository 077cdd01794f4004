"""The grammar file, its shipped tables, and the parser over them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lark import Lark, Token, Tree

from lbdsl.core.resources import resource_folder
from lbdsl.core.span import Source
from lbdsl.syntax import tree
from lbdsl.syntax.lexer import lex
from lbdsl.syntax.names import GRAMMAR, MAX_TOKENS, TABLES
from lbdsl.syntax.parse import parse
from lbdsl.syntax.tables import tables_text

SPEC = Path(__file__).parents[1] / "spec"
GOOD = re.findall(r"^```lbr[^\n]*\n(.*?)^```\n", (SPEC / "valid.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def grammar() -> str:
    return (resource_folder("grammars") / GRAMMAR).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole_file(grammar: str) -> Lark:
    """Strict: a conflict of the grammar or of two terminals raises."""
    return Lark(grammar, parser="lalr", lexer="basic", strict=True, start=["file", "stmt"], maybe_placeholders=False)


def test_grammar_has_no_conflict_and_names_no_action_or_metric(whole_file: Lark, grammar: str) -> None:
    assert {rule.origin.name for rule in whole_file.rules} >= {"file", "stmt", "call"}
    code = re.sub(r"//[^\n]*", "", grammar)
    for name in ("keep", "swa", "drop", "nll", "sensitivity", "lora"):
        assert not re.search(rf"\b{name}\b", code)


def test_tables_are_in_step_with_the_grammar(grammar: str) -> None:
    shipped = (resource_folder("grammars") / TABLES).read_text(encoding="utf-8")
    assert shipped == tables_text(grammar), "run `python -m lbdsl.syntax.tables`"
    assert json.loads(shipped)["states"]


def test_the_smallest_recipe_parses_by_the_grammar_alone(whole_file: Lark) -> None:
    found = whole_file.parse("layers 0-3 keep; where sensitivity<0.1 drop; else swa(window=512)", start="file")
    assert [child.data for child in found.children] == ["rule", "rule", "rule"]


@pytest.mark.parametrize("text", GOOD)
def test_lexer_agrees_with_larks(whole_file: Lark, text: str) -> None:
    ours = [(token.kind, token.text) for token in lex(text, MAX_TOKENS).tokens]
    assert ours == [(str(token.type), str(token)) for token in whole_file.lex(text)]


ONE_LINERS = [line for text in GOOD for line in text.splitlines() if parse(Source("x", line)).ok]


@pytest.mark.parametrize("text", ONE_LINERS)
def test_parser_agrees_with_larks(whole_file: Lark, text: str) -> None:
    """The same statements and the same calls, seen by Lark's own parser with its own tree."""
    theirs = whole_file.parse(text, start="file")
    ours = parse(Source("x", text)).unwrap()
    assert len(theirs.children) == len(ours.statements)
    calls = [str(call.children[0]) for call in theirs.iter_subtrees_topdown() if call.data == "call"]
    assert sorted(calls) == sorted(node.name.name for node in _walk(ours.statements) if isinstance(node, tree.Call))
    assert all(isinstance(child, Tree | Token) for child in theirs.children)


def _walk(value):
    if isinstance(value, tuple):
        for item in value:
            yield from _walk(item)
    elif isinstance(value, tree.Node):
        yield value
        for item in vars(value).values():
            yield from _walk(item)
