"""`plan_sweep`: the plans for several values of a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lbdsl.api.planning import Planned, planned_on, read_recipe
from lbdsl.core.diagnostic import Diagnostic, LbdslError, error
from lbdsl.core.processes import Killed
from lbdsl.core.progress import AnyProgress
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions


@dataclass(frozen=True)
class Swept:
    """One value of a sweep: its plan, or the errors because of which there is none."""

    value: str
    planned: Planned | None
    errors: tuple[Diagnostic, ...] = ()


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
