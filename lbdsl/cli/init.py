"""`lbdsl init MODEL`: a starter recipe. Never loads torch."""

from __future__ import annotations

from pathlib import Path

import click

from lbdsl.cli.options import model_argument, offline_option
from lbdsl.cli.output import tell, write_text


@click.command()
@model_argument
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="CONDITION",
    help="Choose the plan that meets it with the least damage, as in `--goal 'kv(8Ki) <= 50%'`, or the smallest cache "
    "that keeps it, as in `--goal 'recovery(needle(1Ki)) >= 90%'` or `--goal 'kl <= 0.05'`; may be repeated.",
)
@click.option(
    "-o", "--output", "out", metavar="FILE", help="Where to; `-` is standard output. Default: ./<model>-start.lbr"
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@offline_option
def init(model: str, more: tuple[str, ...], goals: tuple[str, ...], out: str | None, force: bool, offline: bool) -> None:
    """Write a starter recipe that fits MODEL, with a comment on every part of it.

    Only headers are read: layers, shapes, positions and the model's own windows. Nothing is measured, so its counts and
    bounds are only a starting point. MODEL is a local folder, a hub id with an optional @revision, or a GGUF file.
    """
    from lbdsl.api.starting import starting_recipe
    from lbdsl.api.writing import write_beside
    from lbdsl.cli.output import show_diagnostics

    words = (model, *more)
    if more or model.endswith(".lbr"):
        name = next((word for word in words if word.endswith(".lbr")), "RECIPE")
        right = next((word for word in words if not word.endswith(".lbr")), "MODEL")
        raise click.UsageError(f"init takes the model, and -o names the recipe: lbdsl init {right} -o {name}")
    start = starting_recipe(model, goals=goals, offline=offline)
    show_diagnostics(start.diagnostics)
    if out == "-":
        write_text(start.text)
        return
    path = Path(out) if out is not None else Path(f"{start.model_name}-{'goal' if goals else 'start'}.lbr")
    write_beside(path, start.text, replace=force)
    tell(f"Wrote {path}")
    tell(f"See what it would do:  lbdsl plan {path} {model}")
