"""The recipes of examples/tutorial: good, canonical, in the page, the last without a warning; and those of recipes/."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import lbdsl
from lbdsl.api.checking import check_file
from lbdsl.language.format import format_text
from lbdsl.recipe.load import load_recipe
from tests.plan_cases import smollm2_facts

FOLDER = Path(__file__).parents[2] / "examples" / "tutorial"
STEPS = sorted(FOLDER.glob("[1-9]-*.lbr"))


def codes(path: Path) -> list[str]:
    return [d.code for d in load_recipe(path).diagnostics]


def test_there_are_seven_steps_and_the_page_shows_each() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name[0] for path in STEPS] == list("1234567")
    for path in FOLDER.glob("*.lbr"):
        assert f"examples/tutorial/{path.name} -->" in page, path.name


def test_the_notebook_says_what_there_is() -> None:
    """Without outputs, which would be of some machine; tests/slow runs it."""
    cells = json.loads((FOLDER / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)
    whole = ast.parse("\n".join("".join(cell["source"]) for cell in code))
    named = {
        node.attr for node in ast.walk(whole) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lbdsl"
    }
    assert {"plan_recipe", "apply_plan", "load"} <= named <= set(lbdsl.__all__)


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_each_step_is_good_also_for_the_model_of_the_page(path: Path) -> None:
    found = check_file(path, facts=smollm2_facts())
    assert found.ok
    wanted = {"1": ["LB207", "LB208"], "5": ["LB207", "LB360"], "6": [], "7": []}
    assert codes(path) == wanted.get(path.name[0], ["LB207", "LB208"])


@pytest.mark.parametrize("path", [*STEPS[1:], FOLDER / "common.lbr"], ids=lambda path: path.stem)
def test_each_is_canonical(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(text).unwrap() == text


def test_the_last_two_steps_are_one_recipe() -> None:
    six, seven = (load_recipe(path).unwrap() for path in STEPS[-2:])
    assert [rule.text for rule in six.rules] == [rule.text for rule in seven.rules]
    assert six.params == seven.params
    for block in ("measure", "heal", "eval"):
        one, other = (getattr(recipe, block).model_dump() for recipe in (six, seven))
        assert one == other


@pytest.mark.parametrize("path", sorted((FOLDER.parents[1] / "recipes").glob("*.lbr")), ids=lambda path: path.stem)
def test_shipped_recipes_rank_by_what_they_do_and_ask_what_is_forgotten(path: Path) -> None:
    assert not {"LB219", "LB360"} & {*codes(path), *(d.code for d in check_file(path, facts=smollm2_facts()).diagnostics)}


def test_four_mistakes_are_four_errors() -> None:
    assert codes(FOLDER / "mistakes.lbr") == ["LB010", "LB013", "LB103", "LB011"]
