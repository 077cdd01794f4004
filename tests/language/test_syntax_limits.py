"""The caps of the language: coded errors, never a crash, and linear time below them."""

from __future__ import annotations

import time

import pytest

from lbdsl.core.span import Source
from lbdsl.language.parse import parse
from lbdsl.recipe.load import recipe_from_text

pytestmark = pytest.mark.large


def codes(text: str) -> list[str]:
    return [d.code for d in parse(Source("t", text)).diagnostics]


def test_size_tokens_and_rules() -> None:
    assert codes("#" * (2 * 1024 * 1024 + 1)) == ["LB019"]
    assert codes("é" * (1024 * 1024 + 1)) == ["LB019"]
    assert codes("#" * (2 * 1024 * 1024)) == []
    assert codes("let $a = 1" + "+1" * 150_000) == ["LB019"]
    assert codes("else k\n" * 20_001) == ["LB019"]


def test_digits() -> None:
    assert codes("layers 123456789012345678 keep") == []
    assert codes("layers 1234567890123456789 keep") == ["LB006"]
    assert codes("let $a = 0.1234567890123456789") == ["LB006"]


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("-(", ")")])
def test_depth(opening: str, closing: str) -> None:
    per = len(opening.replace("not ", "n"))
    fits = 64 // per
    inner = "1"
    assert "LB005" not in codes(f"let $a = {opening * fits}{inner}{closing * fits}")
    assert codes(f"let $a = {opening * 100}{inner}{closing * 100}\nelse keep") == ["LB005"]


@pytest.mark.parametrize(
    "text",
    [
        "where " + " and ".join(["nll < 1"] * 5_000) + " drop",
        "let $a = " + " + ".join(["1"] * 10_000),
        "layers " + ", ".join(map(str, range(9_000))) + " keep",
        "where " + "(" * 20_000,
        "assert " + " < ".join(["1"] * 10_000),
        "else " + " + ".join(["keep"] * 200),
        "heal {" + "lr = 1;" * 8_000 + "}",
    ],
)
def test_long_input_is_quick(text: str) -> None:
    start = time.process_time()
    recipe_from_text(text)
    assert time.process_time() - start < 8  # quadratic work would take much longer


def test_groups_cannot_grow_without_bound() -> None:
    doubling = "group @g0 = 1, 2\n" + "".join(f"group @g{i + 1} = @g{i}, @g{i}\n" for i in range(40))
    found = [d.code for d in recipe_from_text(doubling + "layers @g40 keep").diagnostics]
    assert "LB212" in found
    deep = "group @g0 = 1\n" + "".join(f"group @g{i + 1} = not @g{i}\n" for i in range(400))
    assert "LB212" in [d.code for d in recipe_from_text(deep + "layers @g400 keep").diagnostics]


def test_constants_cannot_grow_without_bound() -> None:
    text = "let $a0 = 100000000000000000\n" + "".join(f"let $a{i + 1} = $a{i} * $a{i}\n" for i in range(40))
    assert "LB121" in [d.code for d in recipe_from_text(text).diagnostics]
    assert "LB121" in [d.code for d in recipe_from_text("let $a = 1e999\nlayers $a keep").diagnostics]
