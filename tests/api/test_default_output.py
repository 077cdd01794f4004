"""Where `apply` puts its result when nobody says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lbdsl.api.applying import ApplyOptions, output_of
from tests.plan_cases import plan_of, smollm2_facts


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("half-the-cache", "SmolLM2-half-the-cache"),
        ("my recipe", "SmolLM2-my-recipe"),
        ("größer", "SmolLM2-größer"),
        ("../../etc/x", "SmolLM2-etc-x"),
        ("/etc", "SmolLM2-etc"),
        ("..", "SmolLM2-recipe"),
        ("a\0b", "SmolLM2-a-b"),
        ("x" * 500, "SmolLM2-" + "x" * 60),
        ("", "SmolLM2-recipe"),
    ],
)
def test_a_recipe_does_not_choose_the_folder(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of("else keep", smollm2_facts())
    plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"name": name})})
    bench = SimpleNamespace(source=SimpleNamespace(short_name="SmolLM2"))
    assert output_of(plan.recipe, bench, ApplyOptions()) == tmp_path / folder  # type: ignore[arg-type]
    assert output_of(plan.recipe, bench, ApplyOptions(output=Path("../a"))) == tmp_path.parent / "a"  # type: ignore[arg-type]
