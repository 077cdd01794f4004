"""`measure_model`, `plan_recipe`, `plan_sweep`: from a recipe and a model to measurements and to plans."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.api.notebook import NotebookResult
from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError, error, fail, raise_errors
from lbdsl.core.measurement import Measurement, Request
from lbdsl.core.processes import Killed
from lbdsl.core.progress import AnyProgress
from lbdsl.core.units import tokens_of
from lbdsl.plan.file import load_plan as read_plan
from lbdsl.plan.file import save_plan
from lbdsl.plan.made_from import MeasuredOn
from lbdsl.plan.schema import AssertResult, Costs, LayerPlan, Loss, Plan
from lbdsl.recipe.load import load_recipe, recipe_from_text
from lbdsl.recipe.reading import FolderReader
from lbdsl.recipe.schema import Recipe
from lbdsl.session.measuring import measure
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.session.planning import plan, settle

if TYPE_CHECKING:
    from lbdsl.measure.statistics import Statistics


@dataclass(frozen=True, repr=False)
class Measured(NotebookResult):
    """All scores that a recipe needs from a model, and the text they were measured on (None: the recipe needs none)."""

    recipe: Recipe
    bench: OpenModel
    scores: Mapping[Request, Measurement]
    on: MeasuredOn | None
    diagnostics: tuple[Diagnostic, ...]

    def in_short(self) -> str:
        return f"{len(self.scores)} scores of {self.bench.source.short_name}"

    def to_json(self) -> dict[str, Any]:
        """The JSON of `measure --json`, sorted; a score or a standard error that is not finite is null."""
        rows = [
            {
                "metric": request.metric,
                "action": request.action,
                "layer": request.layer,
                "value": _number(found.value),
                "stderr": _number(found.stderr),
                "unit": found.unit,
                "tokens": found.tokens,
            }
            for request, found in sorted(self.scores.items(), key=lambda item: astuple(item[0]))
        ]
        return {"format_version": 1, "measured_on": self.on.model_dump() if self.on else None, "scores": rows}


@dataclass(frozen=True, repr=False)
class Planned(NotebookResult):
    """A plan with the diagnostics of making it. Without `statistics`, those that it names are read from the cache."""

    plan: Plan
    diagnostics: tuple[Diagnostic, ...]
    recipe: Recipe
    bench: OpenModel
    statistics: Statistics | None = None

    def in_short(self) -> str:
        return f"{self.plan!r}"[len("<Plan: ") : -1]

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        """What each layer becomes, and why."""
        return self.plan.layers

    @property
    def costs(self) -> Costs:
        """Sizes of the whole model before and after: `costs.kv_bytes[8192].after`."""
        return self.plan.costs

    @property
    def loss(self) -> Loss:
        """The damage of the whole plan before healing: `loss["kl"]`, and with its error `loss.scores["kl"]`."""
        return self.plan.loss

    @property
    def asserts(self) -> tuple[AssertResult, ...]:
        """The recipe's asserts, each with its status and value."""
        return self.plan.asserts

    def save(self, path: str | Path) -> Path:
        """Write the plan (.lbplan), for `apply_saved_plan` or `lbdsl apply`."""
        return save_plan(self.plan, path)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors, because of which the plan cannot be applied; warnings and notes are shown with the plan."""
        return tuple(d for d in self.diagnostics if d.is_error)


@dataclass(frozen=True)
class Swept:
    """One value of a sweep: its plan, or the errors because of which there is none."""

    value: str
    planned: Planned | None
    errors: tuple[Diagnostic, ...] = ()


def measure_model(
    recipe: str | Path,
    model: str | Path,
    *,
    set_params: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
) -> Measured:
    """Measure on `model` every score that the recipe file needs; cached scores are not measured again.

    Raises LbdslError for errors that the user can fix.
    """
    session, found = settle(read_recipe(recipe, set_params), OpenModel(model, options, progress), again=True, planned=False)
    scored = measure(session, planned=False)
    return Measured(session.recipe, session.model, scored.scores, scored.on, (*found, *scored.diagnostics))


def plan_recipe(
    recipe: str | Path,
    model: str | Path,
    *,
    set_params: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
    ctx: int | str | Sequence[int | str] = (),
    again: bool = False,
    best_so_far: bool = False,
    ready: Callable[[Recipe, OpenModel], None] | None = None,
) -> Planned:
    """Resolve the recipe on the model, measure the missing scores, and plan the changes and their costs.

    `ctx`: context lengths, as 8192 or "8Ki", that costs are shown at besides those that the recipe names, and 1Ki, 8Ki and
    32Ki within the model's positions. `again` allows an lbdsl artifact as the model. With `best_so_far` a KeyboardInterrupt
    in the search of a `choose` gives the best plan that was found. `ready` is called before anything is read or measured,
    and may raise. Nothing is written to disk except measurements in the cache folder. A failed assert is in the diagnostics
    and makes the plan not applyable; one that no scores could meet raises LbdslError before anything is measured, as other
    errors do, and a context that is no number of tokens ValueError.
    """
    contexts = tuple(map(tokens_of, (ctx,) if isinstance(ctx, int | str) else ctx))
    loaded = read_recipe(recipe, set_params)
    bench = OpenModel(model, options, progress)
    if ready is not None:
        ready(loaded.unwrap(), bench)
    return planned_on(loaded, bench, contexts, again, best_so_far)


def plan_sweep(
    recipe: str | Path,
    model: str | Path,
    name: str,
    values: Sequence[str],
    *,
    set_params: Mapping[str, object] | None = None,
    options: RunOptions | None = None,
    progress: AnyProgress | None = None,
    ctx: tuple[int, ...] = (),
    again: bool = False,
) -> tuple[Swept, ...]:
    """`plan_recipe` for each value of a parameter. What several of them need is measured once. Ctrl-C ends it with the
    values that have a plan. Raises LbdslError if the recipe has errors with one of them, before anything is measured, and
    if none gives a plan."""
    bench = OpenModel(model, options, progress)
    recipes = {value: read_recipe(recipe, {**(set_params or {}), name: value}) for value in values}
    found: list[Swept] = []
    for value, loaded in recipes.items():
        bench.progress.say(f"${name} = {value}")
        try:
            found.append(Swept(value, planned_on(loaded, bench, ctx, again)))
        except LbdslError as problem:
            found.append(Swept(value, None, tuple(d for d in problem.diagnostics if d.is_error)))
        except KeyboardInterrupt as stop:
            if isinstance(stop, Killed) or not any(item.planned is not None for item in found):
                raise
            said = f"stopped before `{name} = {value}` had a plan"
            found.append(Swept(value, None, (error("LB357", said, help="the same command continues from there"),)))
            break
    if all(item.planned is None for item in found):
        raise LbdslError(found[0].errors)
    return tuple(found)


def plan_text(
    text: str,
    path: str,
    bench: OpenModel,
    *,
    set_params: Mapping[str, object] | None = None,
    contexts: tuple[int, ...] = (),
) -> Planned:
    """`plan_recipe` for a recipe that is not in a file; `path` is the path that it would have."""
    loaded = recipe_from_text(text, path, set_params, reader=FolderReader(Path(path)))
    raise_errors(loaded.diagnostics)
    return planned_on(loaded, bench, contexts, again=True)


def load_plan(path: str | Path) -> Plan:
    """A saved plan, for inspection; `apply_saved_plan` applies it. Raises LbdslError for a file that is not a plan."""
    return read_plan(path).unwrap()


def planned_on(
    loaded: Diagnosed[Recipe], bench: OpenModel, contexts: tuple[int, ...], again: bool, best_so_far: bool = False
) -> Planned:
    """`plan_recipe` of a recipe that was read, on a model that was opened."""
    made, session, diagnostics = plan(loaded, bench, contexts, again=again, best_so_far=best_so_far)
    return Planned(made, diagnostics, session.recipe, bench)


def read_recipe(recipe: str | Path, set_params: Mapping[str, object] | None) -> Diagnosed[Recipe]:
    """Raises LbdslError for its errors."""
    path = os.path.abspath(recipe)
    if not path.isascii() and path != path.encode(errors="replace").decode():
        raise fail("LB020", "the recipe's path is not UTF-8, and a plan holds it", help="rename the file or its folder")
    loaded = load_recipe(path, set_params or {})
    raise_errors(loaded.diagnostics)
    return loaded


def _number(value: float) -> float | None:
    """None for values that JSON cannot express: infinity, and the standard error of a single sequence (NaN)."""
    return value if math.isfinite(value) else None
