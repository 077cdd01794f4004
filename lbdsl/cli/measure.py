"""`lbdsl measure RECIPE MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import PATH, RecipeFirst, json_option, measuring_options, model_argument, set_option


@click.command(cls=RecipeFirst)
@click.argument("recipe", type=PATH)
@model_argument
@set_option
@json_option
@measuring_options
def measure(recipe: Path, model: str, assignments: tuple[tuple[str, str], ...], as_json: bool, **running: Any) -> None:
    """Measure on MODEL every score that RECIPE needs, and cache it for `plan` and `apply`.

    An interrupted run continues where it stopped; a second run only reads the cache.
    """
    from lbdsl.api.planning import measure_model
    from lbdsl.cli.output import give, show_diagnostics

    measured = measure_model(recipe, model, set_params=dict(assignments), **running)
    show_diagnostics(measured.diagnostics)
    give(measured, as_json)
