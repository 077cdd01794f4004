"""`check_recipe`: parse, resolve and lint the text of a recipe."""

from __future__ import annotations

from collections.abc import Mapping

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.recipe import recipe_from_text
from lbdsl.recipe.schema import Recipe


def check_recipe(text: str, name: str = "<recipe>", set_params: Mapping[str, str] | None = None) -> Diagnosed[Recipe]:
    """The resolved recipe (None when it has errors) and everything that was found; never raises for bad text."""
    return recipe_from_text(text, name, set_params or {})
