"""`lbdsl apply RECIPE MODEL` or `lbdsl apply PLAN`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.completions import MODELS, RECIPES_OR_PLANS
from lbdsl.cli.options import RecipeFirst, measuring_options, set_option
from lbdsl.core.processes import process_count, process_number

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


@click.command(cls=RecipeFirst)
@click.argument("recipe_or_plan", type=click.Path(path_type=Path), shell_complete=RECIPES_OR_PLANS)
@click.argument("model", required=False, shell_complete=MODELS)
@set_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the result. Default: ./<model>-<recipe>",
)
@click.option(
    "--model", "relocated", metavar="MODEL", shell_complete=MODELS, help="With a saved plan: where the model is now."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-heal", is_flag=True, help="Skip healing; recorded in the artifact.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("--force", is_flag=True, help="Move an existing output aside; discard an interrupted run.")
@click.option("--again", is_flag=True, help="Allow MODEL to be an artifact of lbdsl.")
@click.option(
    "--report-to",
    multiple=True,
    type=click.Choice(TRACKERS),
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
    output: Path | None,
    yes: bool,
    no_heal: bool,
    resume: bool,
    force: bool,
    again: bool,
    report_to: tuple[str, ...],
    all_layers: bool,
    options: Any,
    progress: Any,
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
    from lbdsl.report.report import render_report

    if process_number():
        measured = partial(
            plan_recipe, recipe_or_plan, model or "", set_params=dict(assignments), options=options, again=again
        )
        return follow(options, relocated, measured if model is not None else None)
    ctx.with_resource(leading(options))
    console = stdout_console()
    chosen = ApplyOptions(output=output, no_heal=no_heal, resume=resume, force=force, report_to=report_to)
    resume_command = _resume_command()
    if model is not None and recipe_or_plan.suffix == ".lbplan":
        said = "a saved plan knows its model; with --model you say where it is now"
        raise click.UsageError(f"{said}: lbdsl apply {recipe_or_plan} --model {model}")
    if model is None and recipe_or_plan.suffix == ".lbr":
        raise click.UsageError(f"a recipe needs a MODEL: lbdsl apply {recipe_or_plan} MODEL")
    if model is None:
        with stop_on_ctrl_c(resume_command) as should_stop:
            done = apply_saved_plan(
                recipe_or_plan,
                set_params=dict(assignments),
                model=relocated,
                chosen=chosen,
                options=options,
                progress=progress,
                should_stop=should_stop,
            )
    else:
        from lbdsl.report.plan import render_plan

        if relocated is not None:
            raise click.UsageError("--model goes with a saved plan; a recipe takes MODEL as its second argument")
        if not yes and not sys.stdin.isatty():
            raise click.UsageError("off a terminal, `apply RECIPE MODEL` needs --yes, or a saved plan (`plan -o`)")
        with stop_on_ctrl_c(resume_command) as should_stop:
            planned = plan_recipe(
                recipe_or_plan,
                model,
                set_params=dict(assignments),
                options=options,
                progress=progress,
                again=again,
                ready=lambda recipe, bench: check_place(recipe, bench, chosen),
            )
            shown = planned.plan
            if no_heal and shown.heal is not None:
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
            done = apply_plan(planned, chosen=chosen, progress=progress, should_stop=should_stop)
    show_diagnostics(done.diagnostics)
    render_report(done.record, done.folder, console)
    ctx.exit(done.exit_code)


def _resume_command() -> str:
    import shlex

    words = [word for word in sys.argv[1:] if word != "--resume"]
    launched = "torchrun or accelerate launch, as before, with -m " if process_count() > 1 else ""
    return launched + shlex.join(["lbdsl", *words, "--resume"])
