"""Checking recipes: a text or a file, optionally against the facts of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.recipe.load import load_recipe, recipe_from_text
from lbdsl.recipe.schema import Recipe

if TYPE_CHECKING:
    from lbdsl.solve.choose import Forms


class ModelAtHand(Protocol):
    """A model with more than its facts; it may load torch, which checking does not."""

    @property
    def facts(self) -> ModelFacts: ...

    def forms(self, recipe: Recipe) -> Forms | None:
        """The formats of the engines that a `choose` asks for; None if it asks for none."""

    def not_there(self, recipe: Recipe) -> Iterable[Diagnostic]:
        """Texts and tasks that are not there, and files of questions that are none."""


def check_recipe(
    text: str | Path,
    name: str = "<recipe>",
    set_params: Mapping[str, object] | None = None,
    *,
    facts: ModelFacts | ModelAtHand | None = None,
) -> Diagnosed[Recipe]:
    """The resolved recipe (None when it has errors) and all diagnostics; never raises for bad text.

    A Path is read as a file, as in `check_file`. With `facts`, also reports what is wrong with the recipe for that model,
    as far as that is known before measuring; of a `ModelAtHand`, also what no export can serve, and files and tasks that
    are not there.
    """
    if isinstance(text, Path):
        return check_file(text, set_params, facts=facts)
    return on_model(recipe_from_text(text, name, set_params or {}), facts)


def check_file(
    path: str | Path, set_params: Mapping[str, object] | None = None, *, facts: ModelFacts | ModelAtHand | None = None
) -> Diagnosed[Recipe]:
    """As `check_recipe`, for a file; a file that cannot be read gives a diagnostic too."""
    return on_model(load_recipe(path, set_params or {}), facts)


def on_model(found: Diagnosed[Recipe], model: ModelFacts | ModelAtHand | None) -> Diagnosed[Recipe]:
    """Add the diagnostics of a checked recipe on a model; the value is None when the recipe does not fit the model."""
    if model is None:
        return found
    from lbdsl.plan.findings import static_findings
    from lbdsl.solve.case import Case

    facts = model if isinstance(model, ModelFacts) else model.facts
    if found.value is None:
        return Diagnosed(None, tuple(_sharper(d, facts) for d in found.diagnostics))
    forms = None if isinstance(model, ModelFacts) else model.forms(found.value)
    try:
        of_model = static_findings(Case(found.value, facts), forms)
    except LbdslError as problem:
        of_model = problem.diagnostics
    if not isinstance(model, ModelFacts):
        of_model += tuple(model.not_there(found.value))
    # A model-independent finding is omitted where the model's facts give the same finding more precisely.
    shadowed = {d.place for d in found.diagnostics if d.code == "LB202"}
    of_model = tuple(d for d in of_model if not (d.code == "LB307" and d.place in shadowed))
    codes = {d.code for d in of_model}
    kept = tuple(d for d in found.diagnostics if not (d.code == "LB206" and "LB311" in codes) and d.code != "LB360")
    order = sorted([*kept, *of_model], key=lambda d: d.place)
    return Diagnosed(None if any(d.is_error for d in of_model) else found.value, tuple(order))


def _sharper(d: Diagnostic, facts: ModelFacts) -> Diagnostic:
    """The diagnostic; for an open range (`4-`) its help gives the range's end in this model."""
    if d.code != "LB009" or d.span is None:
        return d
    start = d.span.text.rstrip("- \t")
    if not start.isdigit() or not int(start) < facts.layers:
        return d
    whole, last = f"{start}-{facts.layers - 1}", facts.layers - int(start)
    return replace(d, help=(f"write `{whole}` (the model has {facts.layers} layers) or `last {last}`",))
