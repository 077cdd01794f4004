"""Checking recipes: a text or a file, optionally against the facts of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, LbdslError
from lbdsl.layer.facts import ModelFacts
from lbdsl.recipe.load import load_recipe, recipe_from_text
from lbdsl.recipe.schema import Choosing, Recipe
from lbdsl.recipe.schema_blocks import sources_of

if TYPE_CHECKING:
    from lbdsl.solve.choose import Forms
    from lbdsl.verbs.inspecting import Inspected


def check_recipe(
    text: str | Path,
    name: str = "<recipe>",
    set_params: Mapping[str, object] | None = None,
    *,
    facts: ModelFacts | Inspected | None = None,
) -> Diagnosed[Recipe]:
    """The resolved recipe (None when it has errors) and all diagnostics; never raises for bad text.

    A Path is read as a file, as in `check_file`. With `facts`, also reports what is wrong with the recipe for that model,
    as far as that is known before measuring; with all that `inspect_model` gives, also what no export can serve, and files
    and tasks that are not there.
    """
    if isinstance(text, Path):
        return check_file(text, set_params, facts=facts)
    found = recipe_from_text(text, name, set_params or {})
    return found if facts is None else on_model(found, facts)


def check_file(
    path: str | Path, set_params: Mapping[str, object] | None = None, *, facts: ModelFacts | Inspected | None = None
) -> Diagnosed[Recipe]:
    """As `check_recipe`, for a file; a file that cannot be read gives a diagnostic too."""
    found = load_recipe(path, set_params or {})
    return found if facts is None else on_model(found, facts)


def on_model(found: Diagnosed[Recipe], model: ModelFacts | Inspected) -> Diagnosed[Recipe]:
    """Add the diagnostics of a checked recipe on a model; the value is None when the recipe does not fit the model."""
    from lbdsl.plan.findings import static_findings

    facts = model if isinstance(model, ModelFacts) else model.facts
    if found.value is None:
        return Diagnosed(None, tuple(_sharper(d, facts) for d in found.diagnostics))
    of_model = static_findings(found.value, facts, None if isinstance(model, ModelFacts) else _forms(found.value, model))
    if not isinstance(model, ModelFacts):
        of_model += tuple(_not_there(found.value))
    # A model-independent finding is omitted where the model's facts give the same finding more precisely.
    shadowed = {d.place for d in found.diagnostics if d.code == "LB202"}
    of_model = tuple(d for d in of_model if not (d.code == "LB307" and d.place in shadowed))
    codes = {d.code for d in of_model}
    kept = tuple(d for d in found.diagnostics if not (d.code == "LB206" and "LB311" in codes))
    order = sorted([*kept, *of_model], key=lambda d: d.place)
    return Diagnosed(None if any(d.is_error for d in of_model) else found.value, tuple(order))


def _forms(recipe: Recipe, model: Inspected) -> Forms | None:
    """The formats of the engines that must serve the result."""
    from lbdsl.solve.choose import engines_of

    choosing = next((rule.selector for rule in recipe.rules if isinstance(rule.selector, Choosing)), None)
    engines = engines_of(choosing) if choosing is not None else ()
    if not engines:
        return None
    from lbdsl.workbench.targets import forms_of

    return forms_of(model, engines)


def _not_there(recipe: Recipe) -> Iterator[Diagnostic]:
    """LB440 and LB441 for texts, LB456 for tasks that are not there. No hub is asked."""
    from lbdsl.data.sources import check_source
    from lbdsl.plan.lengths import tasks_at
    from lbdsl.solve.evaluate import scores_in
    from lbdsl.workbench.asking import task_of

    folder = Path(recipe.path).parent
    runs = recipe.heal.runs if recipe.heal is not None else ()
    blocks = [(run, run.data) for run in (recipe.measure, *runs)]
    named = [(source, block) for block, data in blocks for source in sources_of(data) if isinstance(source, str)]
    if recipe.eval is not None:
        named += [(source, recipe.eval) for source in recipe.eval.data]
    checks = [(partial(check_source, source, base_dir=folder), block.set_at.get("data")) for source, block in named]
    tasks = dict.fromkeys(recipe.eval.tasks, recipe.eval.set_at.get("tasks")) if recipe.eval is not None else {}
    tasks |= {task: span for task, span in tasks_at(recipe.asserts) if isinstance(task, str)}
    scores = (score for rule in recipe.rules for score in scores_in(rule.selector))
    tasks |= {task: score.span for score in scores if (task := task_of(score.metric)) is not None}
    if tasks:
        from lbdsl.evaluate.harness import check_name

        checks += [(partial(check_name, task, folder), span) for task, span in tasks.items()]
    for check, span in checks:
        try:
            check()
        except LbdslError as problem:
            yield from (replace(found, span=span) for found in problem.diagnostics)


def _sharper(d: Diagnostic, facts: ModelFacts) -> Diagnostic:
    """The diagnostic; for an open range (`4-`) its help gives the range's end in this model."""
    if d.code != "LB009" or d.span is None:
        return d
    start = d.span.text.rstrip("- \t")
    if not start.isdigit() or not int(start) < facts.layers:
        return d
    whole, last = f"{start}-{facts.layers - 1}", facts.layers - int(start)
    return replace(d, help=(f"write `{whole}` (the model has {facts.layers} layers) or `last {last}`",))
