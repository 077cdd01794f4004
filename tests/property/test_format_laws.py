"""What holds of printing and formatting, for trees over the whole grammar."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from lbdsl.core.span import Source
from lbdsl.language.format import format_text
from lbdsl.language.parse import parse
from tests.property import language_trees as trees
from tests.property.tree_text import tree_text


def comments(text: str) -> list[str]:
    found = parse(Source("t", text)).value
    assert found is not None
    return [span.text.rstrip() for span in found.comments]


@given(trees.files)
def test_parse_and_print_are_inverse(statements) -> None:
    text = tree_text(statements)
    assert trees.parsed(text) == statements
    formatted = format_text(text).unwrap()
    assert trees.parsed(formatted) == statements
    assert tree_text(trees.parsed(formatted)) == text


@given(st.data())
def test_formatting_keeps_tree_and_comments_and_is_idempotent(data: st.DataObject) -> None:
    statements = data.draw(trees.files)
    text = data.draw(trees.mangled(tree_text(statements)))
    before = parse(Source("t", text.replace("\r\n", "\n")))
    assume(not before.diagnostics and before.value is not None and before.value.statements == statements)
    once = format_text(text).unwrap()
    assert trees.parsed(once) == statements
    assert comments(once) == comments(text.replace("\r\n", "\n"))
    assert format_text(once).unwrap() == once
    assert "\n\n\n" not in once
    assert not once.startswith("\n")
    assert all(line == line.rstrip(" \t\r\f") for line in once.split("\n"))


@given(trees.files)
def test_spacing_alone_does_not_matter(statements) -> None:
    """The canonical text depends on the tree, and not on the blanks that stood in the source."""
    text = tree_text(statements)
    wide = text.replace(" ", "  \t") if '"' not in text else text
    assert format_text(wide).unwrap() == format_text(text).unwrap()


@given(st.text(max_size=80))
def test_any_text_is_formatted_or_refused(text: str) -> None:
    found = format_text(text)
    assert (found.value is None) == any(problem.is_error for problem in found.diagnostics)
    assert "LB040" not in {problem.code for problem in found.diagnostics}
