"""`lbdsl plan RECIPE MODEL`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lbdsl.cli.completions import engines
from lbdsl.cli.options import (
    ASSIGNMENT,
    NEW_FILE,
    PATH,
    PICTURE,
    PICTURES,
    TOKENS,
    Parsed,
    RecipeFirst,
    again_option,
    all_option,
    arguments_option,
    json_option,
    measuring_options,
    model_argument,
    origins,
    python_option,
    set_option,
)
from lbdsl.cli.output import give, print_json, show_diagnostics
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.cost.devices import devices_of

CHANGES_PRESENT = 10


@click.command(cls=RecipeFirst)
@click.argument("recipe", type=PATH)
@model_argument
@set_option
@click.option("-o", "--output", type=NEW_FILE, help="Save the plan (.lbplan).")
@click.option(
    "--ctx",
    "contexts",
    type=TOKENS,
    multiple=True,
    help="Contexts to count cache bytes and FLOPs at, besides those that RECIPE names, and 1Ki, 8Ki and 32Ki within "
    "MODEL's positions.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="ENGINE[@DEVICE]",
    shell_complete=engines,
    help="Say what an engine can serve of it: vllm, llamacpp, transformers; vllm@H100, vllm@cpu: there, with the requests "
    "that fit and bounds of tokens a second of a GPU, and predict with its profile. May be repeated.",
)
@click.option(
    "--sweep",
    "sweeps",
    type=ASSIGNMENT,
    multiple=True,
    metavar="NAME=VALUE,VALUE,...",
    help="Plan for each value of one `param`, and compare them; -o draws them as a picture.",
)
@click.option(
    "--estimate",
    "devices",
    type=Parsed("COUNTxKIND", lambda value: devices_of(str(value))),
    help="Say what memory, disk and time it takes on other devices, as in 8xH100, 1x24GB or 2xcpu; measures nothing.",
)
@click.option(
    "--confirm",
    type=click.Choice(["vllm"]),
    help="Measure the throughput that budgets and asserts ask for, of the best plan and, if it fails, of the next.",
)
@python_option(help="--confirm: a Python that has the engine; default: lbdsl's own environment of it.")
@arguments_option(help="--confirm: more words for vLLM's command line, those that the profile was made with.")
@all_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit 10 when the plan changes something.")
@again_option
@json_option
@measuring_options
@click.pass_context
def plan(
    ctx: click.Context,
    recipe: Path,
    model: str,
    assignments: tuple[tuple[str, str], ...],
    output: Path | None,
    contexts: tuple[int, ...],
    targets: tuple[str, ...],
    sweeps: tuple[tuple[str, str], ...],
    devices: Any,
    confirm: str | None,
    engine_python: Path | None,
    engine_args: tuple[str, ...],
    all_layers: bool,
    detailed_exitcode: bool,
    again: bool,
    as_json: bool,
    options: Any,
    progress: Any,
) -> None:
    """Show what RECIPE would do to MODEL: every layer, why, what it costs and gains. Changes nothing.

    Missing scores are measured first and cached.
    """
    from lbdsl.api.planning import plan_recipe
    from lbdsl.plan.file import check_place, save_plan
    from lbdsl.session.targets import check_engines, check_targets

    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if devices is not None:
        if given & {"sweeps", "targets", "output", "contexts", "all_layers", "detailed_exitcode", "again", "confirm"}:
            raise click.UsageError("--estimate makes no plan: it goes with --set, --dtype and --json alone")
        from lbdsl.api.estimating import estimate_recipe

        return give(estimate_recipe(recipe, model, devices, set_params=dict(assignments), options=options), as_json)
    check_engines(targets)
    if (engine_python is not None or engine_args) and confirm is None:
        raise click.UsageError("--engine-python and --engine-args are for --confirm vllm: add it")
    serving = {devices_of(name.partition("@")[2]).kind for name in targets if "@" in name}
    if len(serving) == 1:
        options = replace(options, serving=serving.pop())
    how: dict[str, Any] = {"options": options, "progress": progress, "ctx": contexts, "again": again}
    if sweeps:
        if given & {"targets", "all_layers", "detailed_exitcode", "confirm"}:
            raise click.UsageError(
                "--sweep compares plans; --target, --confirm, --all and --detailed-exitcode are about one"
            )
        if len(sweeps) > 1:
            raise click.UsageError("--sweep takes one parameter: NAME=VALUE,VALUE,...; give the others a value with --set")
        ctx.exit(_sweep(recipe, model, sweeps[0], dict(assignments), output, as_json, how))
    if output is not None:
        if output.suffix in PICTURES:
            said = "a picture is drawn of several plans, with --sweep; one is saved as a .lbplan"
            raise click.UsageError(f"{output}: {said}")
        check_place(output)
    if confirm is not None:
        from lbdsl.api.confirming import check_confirmable, confirm_plan
        from lbdsl.bench.engine import EnginePython

        engine = EnginePython(engine_python, arguments=tuple(engine_args))
        how["ready"] = partial(check_confirmable, engine=engine)
    planned = plan_recipe(recipe, model, set_params=dict(assignments), best_so_far=True, **how)
    if confirm is not None and planned.plan.applyable:
        planned = confirm_plan(planned, recipe, engine, set_params=dict(assignments), again=again)
    served = check_targets(planned.plan, planned.bench, targets)
    if output is not None and planned.plan.applyable:
        save_plan(planned.plan, output)
    if as_json:
        show_diagnostics(planned.diagnostics)
        print_json({**planned.plan.to_json(), "targets": [target.to_json() for target in served]})
    else:
        from lbdsl.report.console import stdout_console
        from lbdsl.report.plan import render_plan, render_targets

        render_plan(planned.plan, stdout_console(), all_layers=all_layers)
        render_targets(served, stdout_console())
        show_diagnostics(planned.errors)
        for line in origins(ctx):
            progress.say(line)
        if output is not None and planned.plan.applyable:
            progress.say(f"Saved {output} (sha256 {planned.plan.digest[:8]})")
            if planned.plan.choice is not None and planned.plan.choice.stopped:
                progress.say("It is of a search that was stopped, not its result: the same command continues the search")
            else:
                progress.say(f"Apply exactly this:  lbdsl apply {output}")
    if not planned.plan.applyable:
        if output is not None:
            progress.say(f"{output} is not written: the plan has errors")
        ctx.exit(planned.exit_code)
    if detailed_exitcode and any(layer.changed for layer in planned.plan.layers):
        ctx.exit(CHANGES_PRESENT)


def _sweep(
    recipe: Path,
    model: str,
    sweep: tuple[str, str],
    given: dict[str, str],
    output: Path | None,
    as_json: bool,
    how: dict[str, Any],
) -> int:
    """The exit code: that of the worst error of any value."""
    from lbdsl.api.planning import plan_sweep
    from lbdsl.report.compared import draw_front, render_compared
    from lbdsl.report.console import stdout_console

    name, values = sweep[0], [value.strip() for value in sweep[1].split(",")]
    if name in given:
        raise click.UsageError(f"--sweep and --set both give ${name} a value")
    if output is not None:
        output = PICTURE.convert(output, None, None)
    found = plan_sweep(recipe, model, name, values, set_params=given, **how)
    planned = {item.value: item.planned for item in found if item.planned is not None}
    plans = {f"{name}={value}": one.plan for value, one in planned.items()}
    # What the recipe itself is about, if all plans tell it.
    named = {cost.ctx for one in planned.values() for cost in one.recipe.costs_asked if cost.ctx is not None}
    context = max((ctx for ctx in named if all(ctx in plan.contexts for plan in plans.values())), default=None)
    if as_json:
        rows = [
            {
                "value": item.value,
                "plan": item.planned and item.planned.plan.to_json(),
                "errors": [problem.to_json() for problem in item.errors],
            }
            for item in found
        ]
        print_json({"sweep": name, "plans": rows})
    else:
        render_compared(plans, stdout_console(), context)
    # What is said of several values is said once.
    said: dict[object, tuple[Diagnostic, list[str]]] = {}
    for item in found:
        for problem in item.errors if item.planned is None else item.planned.diagnostics:
            key = (problem.place, problem.code, problem.message, problem.help)
            said.setdefault(key, (problem, []))[1].append(item.value)
    together: dict[str, list[Diagnostic]] = {}
    for problem, of in said.values():
        together.setdefault(", ".join(of), []).append(problem)
    for shared, found_there in together.items():
        how["progress"].say(f"{name} = {shared}:")
        show_diagnostics(found_there)
    if output is not None:
        draw_front(plans, f"{recipe.name}, {name}", output, context)
        how["progress"].say(f"Drew {output}")
    return max((problem.exit_code for problem, _ in said.values()), default=0)
