"""`lbdsl apply RECIPE MODEL` or `lbdsl apply PLAN`."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import FILE, PATH, RecipeFirst, again_option, measuring_options, model_option, set_option, yes_option
from lbdsl.core.processes import process_count, process_number


@click.command(cls=RecipeFirst)
@click.argument("recipe_or_plan", type=PATH)
@click.argument("model", required=False, type=FILE)
@set_option
@click.option("-o", "--output", type=PATH, help="Folder of the result. Default: ./<model>-<recipe>")
@model_option("relocated", help="With a saved plan: where the model is now.")
@yes_option
@click.option("--no-heal", is_flag=True, help="Skip healing; recorded in the artifact.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--force", is_flag=True, help="Move an existing output aside; discard an interrupted run.")
@again_option
@click.option(
    "--report-to",
    multiple=True,
    type=click.Choice(["tensorboard", "wandb", "mlflow", "trackio"]),
    help="Show the healing loss there, too; may be repeated. TensorBoard's files are in <output>.tensorboard.",
)
@click.option("--all", "all_layers", is_flag=True, help="With a recipe: list every changed layer of its plan.")
@measuring_options
@click.pass_context
def apply(
    ctx: click.Context,
    recipe_or_plan: Path,
    model: str | None,
    relocated: str | None,
    assignments: tuple[tuple[str, str], ...],
    yes: bool,
    again: bool,
    all_layers: bool,
    options: Any,
    progress: Any,
    **given: Any,
) -> None:
    """Change a model by RECIPE, heal it, evaluate it and save it; or apply exactly a saved PLAN.

    With a recipe, the plan is shown first and must be confirmed; when stdin is not a terminal, `--yes` is required.
    """
    from lbdsl.api.applying import ApplyOptions, apply_plan, apply_saved_plan, check_output, check_place
    from lbdsl.api.following import follow, leading
    from lbdsl.api.interrupt import stop_on_ctrl_c
    from lbdsl.api.planning import plan_recipe
    from lbdsl.cli.output import show_diagnostics
    from lbdsl.report.console import stdout_console
    from lbdsl.report.plan import render_plan
    from lbdsl.report.report import render_report

    chosen, set_params = ApplyOptions(**given), dict(assignments)
    planning = partial(plan_recipe, recipe_or_plan, model or "", set_params=set_params, options=options, again=again)
    if process_number():
        return follow(options, relocated, planning if model is not None else None)
    ctx.with_resource(leading(options))
    console = stdout_console()
    if model is not None and recipe_or_plan.suffix == ".lbplan":
        said = "a saved plan knows its model; with --model you say where it is now"
        raise click.UsageError(f"{said}: lbdsl apply {recipe_or_plan} --model {model}")
    if model is None and recipe_or_plan.suffix == ".lbr":
        raise click.UsageError(f"a recipe needs a MODEL: lbdsl apply {recipe_or_plan} MODEL")
    if model is not None and relocated is not None:
        raise click.UsageError("--model goes with a saved plan; a recipe takes MODEL as its second argument")
    if model is not None and not yes and not sys.stdin.isatty():
        raise click.UsageError("off a terminal, `apply RECIPE MODEL` needs --yes, or a saved plan (`plan -o`)")
    with stop_on_ctrl_c(_resume_command()) as should_stop:
        run: dict[str, Any] = {"chosen": chosen, "progress": progress, "should_stop": should_stop}
        if model is None:
            done = apply_saved_plan(recipe_or_plan, set_params=set_params, model=relocated, options=options, **run)
        else:
            planned = planning(progress=progress, ready=lambda recipe, bench: check_place(recipe, bench, chosen))
            shown = planned.plan
            if chosen.no_heal and shown.heal is not None:
                nothing = {"heal_seconds": 0.0, "passes": None, "machine_bytes": None}
                unhealed = shown.estimate and shown.estimate.model_copy(update=nothing)
                shown = shown.model_copy(update={"heal": None, "estimate": unhealed})
            render_plan(shown, console, all_layers=all_layers)
            show_diagnostics(planned.errors)
            if not planned.plan.applyable:
                ctx.exit(planned.exit_code)
            if not check_output(planned, chosen):
                progress.say("Nothing to do: the output is up to date with this plan.")
                return
            if not yes and not click.confirm("Apply this plan?", err=True):
                progress.say("Not applied.")
                ctx.exit(1)
            done = apply_plan(planned, **run)
    show_diagnostics(done.diagnostics)
    render_report(done.record, done.folder, console)
    ctx.exit(done.exit_code)


def _resume_command() -> str:
    words = [word for word in sys.argv[1:] if word != "--resume"]
    launched = "torchrun or accelerate launch, as before, with -m " if process_count() > 1 else ""
    return launched + shlex.join(["lbdsl", *words, "--resume"])
