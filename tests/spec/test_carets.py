"""Carets stand where a reader would point: marks set by hand in carets.txt, against what is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbdsl.recipe.load import recipe_from_text

LINES = [
    line
    for line in Path(__file__).with_name("carets.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def read(line: str) -> tuple[str, str, tuple[int, int]]:
    """Code, recipe and the marked range."""
    code, _, marked = line.partition(" ")
    marked = marked.replace("\\n", "\n")
    start = marked.index("«")
    end = marked.index("»") - 1
    return code, marked.replace("«", "").replace("»", ""), (start, end)


def places(text: str) -> list[tuple[str, int, tuple[int, int]]]:
    found = [d for d in recipe_from_text(text).diagnostics if d.is_error]
    return [(d.code, d.span.start_line_column[0], (d.span.start, d.span.end)) for d in found if d.span is not None]


@pytest.mark.parametrize("line", LINES)
def test_code_and_line_are_right(line: str) -> None:
    code, text, (start, _) = read(line)
    wanted = (code, text.count("\n", 0, start) + 1)
    assert [place[:2] for place in places(text)] == [wanted], text


def test_carets_are_exact() -> None:
    """At least 95 % of them, and the others overlap the mark or touch it."""
    wrong = []
    for line in LINES:
        code, text, (start, end) = read(line)
        spans = [span for found, _, span in places(text) if found == code]
        if spans != [(start, end)]:
            wrong.append((line, [text[a:b] for a, b in spans]))
            assert any(a <= end and start <= b for a, b in spans), line
    assert len(LINES) >= 120
    assert len(wrong) <= 0.05 * len(LINES), wrong
