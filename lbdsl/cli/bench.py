"""`lbdsl bench ARTIFACT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lbdsl.cli.completions import FOLDERS
from lbdsl.cli.options import Tokens, json_option, run_options


class _Several(click.ParamType):
    """Values of one kind, separated by commas."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, f"{kind.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self.kind.convert(part, param, ctx) for part in str(value).split(",")))


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), shell_complete=FOLDERS)
@click.option("--against", metavar="MODEL", help="The base model; default: the one in the artifact's record.")
@click.option("--contexts", type=_Several(Tokens()), default="1Ki,4Ki", show_default=True, help="Tokens of a prompt.")
@click.option(
    "--batches", type=_Several(click.IntRange(1)), default="1,8", show_default=True, help="Sequences decoded at once."
)
@click.option("--pairs", type=click.IntRange(2), default=5, show_default=True, help="Runs of each model, by turns.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Draw the ratios: a .png or .svg file."
)
@json_option
@run_options
def bench(
    artifact: Path,
    against: str | None,
    contexts: tuple[int, ...],
    batches: tuple[int, ...],
    pairs: int,
    output: Path | None,
    as_json: bool,
    options: Any,
    progress: Any,
) -> None:
    """Speed, memory and cache of ARTIFACT in transformers beside its base, as ratios of paired runs.

    The result is kept in the artifact's record and its model card.
    """
    from lbdsl.cli.output import print_json
    from lbdsl.verbs.benching import bench_artifact

    found = bench_artifact(
        artifact, against=against, contexts=contexts, batches=batches, pairs=pairs, options=options, progress=progress
    )
    if output is not None:
        from lbdsl.report.bench import draw_bench

        draw_bench(found.cells, output)
    if as_json:
        print_json(found.to_json())
    else:
        from lbdsl.report.bench import render_bench
        from lbdsl.report.console import stdout_console

        render_bench(found.to_json()["cells"], stdout_console())
