"""The grammar file, its shipped tables, and the parser over them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lark import Lark, Token, Tree
from lark.exceptions import GrammarError

from lbdsl.core.digest import digest_text
from lbdsl.core.resources import resource_folder
from lbdsl.core.span import Source
from lbdsl.language import grammar as syntax_grammar
from lbdsl.language import tree
from lbdsl.language.grammar import GRAMMAR, TABLES, tables_text
from lbdsl.language.lexer import lex
from lbdsl.language.parse import parse
from lbdsl.language.words import keywords

SPEC = Path(__file__).parents[1] / "spec"
GOOD = re.findall(r"^```lbr[^\n]*\n(.*?)^```\n", (SPEC / "valid.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def written() -> str:
    return (resource_folder("grammars") / GRAMMAR).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole_file(written: str) -> Lark:
    """Strict: a conflict of the grammar or of two terminals raises."""
    return Lark(written, parser="lalr", lexer="basic", strict=True, start=["file", "stmt"], maybe_placeholders=False)


def test_grammar_has_no_conflict_and_names_no_action_or_metric(whole_file: Lark, written: str) -> None:
    assert {rule.origin.name for rule in whole_file.rules} >= {"file", "stmt", "call"}
    code = re.sub(r"//[^\n]*", "", written)
    for name in ("keep", "swa", "drop", "nll", "sensitivity", "lora"):
        assert not re.search(rf"\b{name}\b", code)


def test_shipped_tables_are_of_this_grammar(written: str) -> None:
    """Otherwise every check would wait for Lark to make them: `PYTHONHASHSEED=0 python -m lbdsl.language.grammar`."""
    shipped = json.loads((resource_folder("grammars") / TABLES).read_text(encoding="utf-8"))
    assert shipped["made_of"].startswith(digest_text(written))
    made = json.loads(tables_text(written))
    assert [shipped[part] for part in ("ignored", "signs", "terminals")] == [
        made[part] for part in ("ignored", "signs", "terminals")
    ]
    assert sorted(map(str, shipped["rules"].values())) == sorted(map(str, made["rules"].values()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder of grammars that the parser is made of."""
    shutil.copytree(resource_folder("grammars"), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(syntax_grammar, "resource_folder", lambda name: tmp_path)
    syntax_grammar.grammar.cache_clear()
    yield tmp_path
    syntax_grammar.grammar.cache_clear()


def test_a_broken_grammar_is_larks_error(folder: Path, written: str) -> None:
    (folder / GRAMMAR).write_text(written.replace('"assert" expr', '"assert" exprr'), encoding="utf-8")
    with pytest.raises(GrammarError, match="exprr"):
        parse(Source("x", "layers 0-3 keep"))


def test_an_edited_grammar_is_parsed_by(folder: Path, written: str) -> None:
    (folder / GRAMMAR).write_text(written.replace('"assert" expr', '"assert" expr ","?'), encoding="utf-8")
    assert parse(Source("x", "assert nll < 0.1,")).ok


@pytest.mark.parametrize("tables", [None, "{}", '{"made_of": "another"}'])
def test_without_tables_lark_makes_them(folder: Path, tables: str | None) -> None:
    (folder / TABLES).unlink()
    if tables is not None:
        (folder / TABLES).write_text(tables, encoding="utf-8")
    assert parse(Source("x", "layers 0-3 keep")).ok
    assert not parse(Source("x", "layers 0-3")).ok


def test_the_vocabulary_is_that_of_the_grammar(whole_file: Lark) -> None:
    words = {t.pattern.value: t.name for t in whole_file.terminals if t.pattern.value.isidentifier()}
    assert words == {word: word.upper() for word in keywords()}
    assert list(keywords()) == sorted(keywords())


def test_the_smallest_recipe_parses_by_the_grammar_alone(whole_file: Lark) -> None:
    found = whole_file.parse("layers 0-3 keep; where sensitivity<0.1 drop; else swa(window=512)", start="file")
    assert [child.data for child in found.children] == ["rule", "rule", "rule"]


@pytest.mark.parametrize("text", GOOD)
def test_lexer_agrees_with_larks(whole_file: Lark, text: str) -> None:
    ours = [(token.type, token.text) for token in lex(text).tokens]
    assert ours == [(str(token.type), str(token)) for token in whole_file.lex(text)]


ONE_LINERS = [line for text in GOOD for line in text.splitlines() if parse(Source("x", line)).ok]


@pytest.mark.parametrize("text", ONE_LINERS)
def test_parser_agrees_with_larks(whole_file: Lark, text: str) -> None:
    """The same statements and the same calls, seen by Lark's own parser with its own tree."""
    theirs = whole_file.parse(text, start="file")
    ours = parse(Source("x", text)).unwrap()
    assert len(theirs.children) == len(ours.statements)
    calls = [str(call.children[0]) for call in theirs.iter_subtrees_topdown() if call.data in ("call", "word")]
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
