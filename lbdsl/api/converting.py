"""`convert_recipe`: convert a recipe between the recipe language, JSON and YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.recipe.exchange import from_exchange, to_exchange

Form = Literal["lbr", "json", "yaml"]

_SUFFIXES: dict[str, Form] = {".lbr": "lbr", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def form_of(path: str | Path) -> Form | None:
    """The form that a file's suffix implies, or None."""
    return _SUFFIXES.get(Path(path).suffix.lower())


def convert_recipe(text: str, source: Form, to: Form, name: str = "<recipe>") -> Diagnosed[str]:
    """The same recipe in another form, without its comments and spacing.

    Converting a form to itself gives its canonical text. None when there are errors; never raises for bad text.
    """
    if source == "lbr":
        found = to_exchange(text, name, "json" if to == "lbr" else to)
        return found if to != "lbr" or found.value is None else from_exchange(found.value, name, "json")
    recipe = from_exchange(text, name, source)
    if to == "lbr" or recipe.value is None:
        return recipe
    return to_exchange(recipe.value, name, to)
