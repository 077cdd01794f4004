"""Recipes: `load_recipe` and `recipe_from_text`, imported on use, since a plan needs only the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lbdsl.recipe.load import load_recipe, recipe_from_text

__all__ = ["load_recipe", "recipe_from_text"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lbdsl.recipe import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
