"""Texts before and after formatting, side by side. `LBDSL_UPDATE_GOLDEN=1` writes what is found, to be read before it is
committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lbdsl.language.format import format_text

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.parametrize("before", sorted(HERE.glob("*.before.lbr")), ids=lambda path: path.name.split(".")[0])
def test_golden(before: Path) -> None:
    after = before.with_name(before.name.replace(".before.", ".after."))
    found = format_text(before.read_text(encoding="utf-8")).unwrap()
    if os.environ.get("LBDSL_UPDATE_GOLDEN"):
        after.write_text(found, encoding="utf-8")
    assert found == after.read_text(encoding="utf-8")
    assert format_text(found).unwrap() == found


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.lbr")), ids=lambda path: path.stem)
def test_shipped_recipes_are_formatted(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    assert format_text(text).unwrap() == text
