"""Positions and edits as the Language Server Protocol counts them."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbdsl.editor.documents import Text


class Position(NamedTuple):
    line: int
    character: int


class Range(NamedTuple):
    start: Position
    end: Position


class Change(NamedTuple):
    range: Range | None
    text: str


def offset(text: Text, line: int, character: int) -> int:
    place: Any = Position(line, character)
    return text.offset(place)


ALPHABET = st.sampled_from(["a", "é", "你", "😀", "\n", "\r\n", "\r", "\t", "\u2028", "\x0c", "\ud800", " "])
TEXTS = st.lists(ALPHABET, max_size=30).map("".join)


@pytest.mark.parametrize(("encoding", "character"), [("utf-8", 13), ("utf-16", 11), ("utf-32", 10)])
def test_characters_are_counted_in_units_of_the_encoding(encoding: str, character: int) -> None:
    text = Text('recipe "😀" ?', encoding)
    assert text.place(10) == Position(0, character)
    assert offset(text, 0, character) == 10


def test_lines_end_as_in_the_protocol_and_nowhere_else() -> None:
    text = Text("a\r\nb\rc\nd\x0ce\u2028f")
    assert [text.place(at)[0] for at in (0, 3, 5, 7, 9, 11)] == [0, 1, 2, 3, 3, 3]


def test_places_outside_are_brought_in() -> None:
    text = Text("ab\r\n😀c")
    assert offset(text, 0, 99) == 2  # before the line end
    assert offset(text, 9, 0) == 6
    assert offset(text, -1, 3) == 0
    assert offset(text, 1, 1) == 4  # inside the emoji: before it
    assert offset(Text(""), 0, 0) == 0


@given(TEXTS, st.sampled_from(["utf-8", "utf-16", "utf-32"]), st.data())
def test_place_and_offset_are_inverse(text: str, encoding: str, data: st.DataObject) -> None:
    shown = Text(text, encoding)
    at = data.draw(st.integers(0, len(text)))
    if text[at - 1 : at + 1] != "\r\n":  # between the two is no place
        assert offset(shown, *shown.place(at)) == at


@given(TEXTS, TEXTS, st.data())
def test_an_edit_replaces_what_is_between_its_places(text: str, new: str, data: st.DataObject) -> None:
    first = Text(text)
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    if "\r\n" in (text[start - 1 : start + 1], text[end - 1 : end + 1]):
        return
    after = first.changed([Change(Range(Position(*first.place(start)), Position(*first.place(end))), new)])
    assert after.text == text[:start] + new + text[end:]


def test_edits_build_on_each_other_and_may_replace_all() -> None:
    text = Text("else keep").changed(
        [
            Change(Range(Position(0, 5), Position(0, 9)), "drop"),
            Change(Range(Position(0, 0), Position(0, 0)), "# 😀\n"),
            Change(Range(Position(1, 9), Position(1, 5)), "swa(4)"),
        ]
    )
    assert text.text == "# 😀\nelse swa(4)"
    assert text.changed([Change(None, "x")]).text == "x"
