"""`convert_recipe`: a recipe between its own language, JSON and YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.recipe.exchange import from_exchange, to_exchange

Form = Literal["lbr", "json", "yaml"]

_SUFFIXES: dict[str, Form] = {".lbr": "lbr", ".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def form_of(path: str | Path) -> Form | None:
    """The form that a file's name stands for."""
    return _SUFFIXES.get(Path(path).suffix.lower())


def convert_recipe(text: str, source: Form, to: Form, name: str = "<recipe>") -> Diagnosed[str]:
    """The recipe in another form. What comes back is the same recipe; comments and spacing are lost on the way.

    From a form to itself gives its canonical text, without comments. None with errors; never raises for bad text.
    """
    if source == "lbr" and to == "lbr":
        source_text = to_exchange(text, name, "json")
        return source_text if source_text.value is None else from_exchange(source_text.value, name, "json")
    if source == "lbr":
        assert to != "lbr"
        return to_exchange(text, name, to)
    recipe = from_exchange(text, name, source)
    if to == "lbr" or recipe.value is None:
        return recipe
    return to_exchange(recipe.value, name, to)
