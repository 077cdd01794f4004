"""Colours: the pieces of a recipe, the Pygments lexer and the TextMate grammar."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, String, Whitespace

from lbdsl.core.resources import resource_folder
from lbdsl.editor.pygments_lexer import LbrLexer
from lbdsl.editor.textmate import grammar_file, grammar_text, textmate_grammar
from lbdsl.language.highlight import GROUP, STATEMENT, pieces
from lbdsl.language.words import keywords

TEXT = 'param $w: tokens = 8Ki # why\nlayers @a, 2 where nll < 5% and model.layers >= 2 swa(window=$w) because "x"\n'


@given(st.text(alphabet=st.sampled_from('layers keep 0-9 $@"#~\n;{}()é😀\r='), max_size=60))
def test_pieces_are_the_whole_text(text: str) -> None:
    assert "".join(piece.text for piece in pieces(text)) == text


def test_roles() -> None:
    roles = {piece.text: piece.role for piece in pieces(TEXT)}
    assert {
        word: roles[word]
        for word in (
            "param",
            "$w",
            "tokens",
            "8Ki",
            "# why",
            "layers",
            "@a",
            "where",
            "nll",
            "<",
            "5%",
            "and",
            "model.layers",
            "swa",
            "window",
            "because",
            '"x"',
        )
    } == {
        "param": STATEMENT,
        "$w": Name.Variable,
        "tokens": Keyword.Type,
        "8Ki": Number,
        "# why": Comment.Single,
        "layers": STATEMENT,
        "@a": GROUP,
        "where": STATEMENT,
        "nll": Name.Builtin,
        "<": Operator,
        "5%": Number,
        "and": Operator.Word,
        "model.layers": Name.Attribute,
        "swa": Name.Function,
        "window": Name.Attribute,
        "because": Keyword,
        '"x"': String.Double,
    }


def test_pygments_lexer() -> None:
    tokens = {text: kind for kind, text in LbrLexer().get_tokens(TEXT)}
    wanted = {
        "layers": Keyword,
        "$w": Name.Variable,
        "swa": Name.Function,
        "nll": Name.Builtin,
        "8Ki": Number,
        "and": Operator.Word,
        '"x"': String,
        "# why": Comment,
    }
    assert all(tokens[word] in kind for word, kind in wanted.items())
    assert not any(kind in Error for kind in tokens.values())
    assert any(kind in Error for kind, _ in LbrLexer().get_tokens("else keep ?"))


def test_every_shipped_recipe_has_no_error_token() -> None:
    for path in resource_folder("recipes").glob("*.lbr"):
        assert not any(piece.role is Error for piece in pieces(path.read_text(encoding="utf-8")))


def test_lexer_is_found_by_its_alias() -> None:
    from importlib.metadata import entry_points

    from pygments.lexers import get_lexer_by_name, get_lexer_for_filename

    if not any(point.name == "lbr" for point in entry_points(group="pygments.lexers")):
        pytest.skip("lbdsl was installed before it had this entry point; install it again")
    assert isinstance(get_lexer_by_name("lbr"), LbrLexer)
    assert isinstance(get_lexer_for_filename("a.lbr"), LbrLexer)


def test_textmate_file_is_in_step() -> None:
    assert grammar_file().read_text(encoding="utf-8") == grammar_text(), "run `python -m lbdsl.editor.textmate`"
    assert json.loads(grammar_text())["scopeName"] == "source.lbr"


def scopes(line: str) -> dict[str, str]:
    """The scopes of a line by the grammar's first-match rule; strings and comments taken whole."""
    found: dict[str, str] = {}
    at = 0
    while at < len(line):
        for pattern in textmate_grammar()["patterns"]:
            begin = pattern.get("match") or f'{pattern["begin"]}[^"]*(?:{pattern["end"]})'
            match = re.compile(begin).match(line, at)
            if match and match.end() > at:
                if "name" in pattern:
                    found[match.group()] = pattern["name"]
                for group, capture in pattern.get("captures", {}).items():
                    found[match.group(int(group))] = capture["name"]
                at = match.end()
                break
        else:
            at += 1
    return found


def test_textmate_grammar_colours_as_the_lexer_does() -> None:
    kinds = {
        STATEMENT: "keyword.control",
        Keyword: "keyword.other",
        Operator.Word: "keyword.operator.word",
        Name.Function: "entity.name.function",
        Name.Builtin: "entity.name.function",
        Name: "entity.name.function",
        Keyword.Type: "storage.type",
        Name.Attribute: ("support.variable", "variable.parameter"),
        Name.Variable: "variable.other",
        GROUP: "entity.name.tag",
        Number: "constant.numeric",
        String.Double: "string.quoted",
        String.Regex: "string.regexp",
        Comment.Single: "comment.line",
        Operator: "keyword.operator",
        Punctuation: "punctuation",
    }
    text = "\n".join(
        [
            TEXT,
            *(path.read_text(encoding="utf-8") for path in resource_folder("recipes").glob("*.lbr")),
            *keywords(),
            'modules ~"q_proj" drop',
        ]
    )
    for line in text.splitlines():
        shown = scopes(line)
        for piece in pieces(line):
            if piece.role is not Whitespace:
                assert shown.get(piece.text, "").startswith(kinds[piece.role]), (line, piece)
