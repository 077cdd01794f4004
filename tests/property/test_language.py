"""No text makes the front end raise, and what holds for every recipe."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lbdsl.core.diagnostic import Severity
from lbdsl.recipe.load import recipe_from_text
from lbdsl.report.diagnostics import Style, concise_text, diagnostic_json, diagnostics_text

SPEC = Path(__file__).parents[1] / "spec"
RECIPES = [
    text
    for path in sorted(SPEC.glob("*.md"))
    for text in re.findall(r"^```lbr[^\n]*\n(.*?)^```\n", path.read_text(encoding="utf-8"), re.M | re.S)
    if len(text) < 2000
]
WORDS = sorted({word for text in RECIPES for word in re.findall(r"\w+|[^\w\s]", text)})


def check(text: str) -> None:
    """Everything the front end does with a text, and what must hold of it."""
    result = recipe_from_text(text, "t.lbr")
    errors = [d for d in result.diagnostics if d.severity is Severity.ERROR]
    assert (result.value is None) == bool(errors)
    for d in result.diagnostics:
        for span in [d.span, *(label.span for label in d.labels), *(e.span for e in (d.fix.edits if d.fix else ()))]:
            assert span is None or 0 <= span.start <= span.end <= len(span.source.text)
    shown = diagnostics_text(result.diagnostics, Style(60, colour=False, unicode=False))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    assert len(concise_text(result.diagnostics).splitlines()) == len(result.diagnostics)
    assert all(diagnostic_json(diagnostic)["code"] for diagnostic in result.diagnostics)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    check(text)


@given(
    st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from([" ", "\n", ";", "(", ")", "{", "}"])), max_size=40),
    st.sampled_from(["", " "]),
)
def test_any_words(words: list[str], between: str) -> None:
    check(between.join(words))


@given(st.data())
def test_mangled_recipes(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(RECIPES))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 6)))
        new = data.draw(st.sampled_from([*WORDS, "", " ", "\n", "\0", "é", "\u202e", "\r"]))
        text = text[:start] + new + text[end:]
    check(text)


def syntax(text: str) -> list[str]:
    return [d.code for d in recipe_from_text(text).diagnostics if d.code < "LB019"]


@cache
def broken() -> list[str]:
    """Recipes that begin with a statement and have mistakes of syntax."""
    first = ("layers", "where", "heal", "assert", "param", "recipe", "let")
    return [text for text in RECIPES if text.split()[:1] and text.split()[0] in first and syntax(text)]


@given(st.sampled_from(RECIPES), st.deferred(lambda: st.sampled_from(broken())))
def test_errors_of_one_statement_do_not_hide_those_of_another(first: str, second: str) -> None:
    """A broken statement in front leaves the syntax errors behind it as they were."""
    assert syntax(first.rstrip() + "\n" + second)[-len(syntax(second)) :] == syntax(second)
